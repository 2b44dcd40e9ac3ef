"""Models that are loaded lightly: in 4 or 8 bits, in another dtype, over several devices.

load:bits=4:./big                           weights in 4 bits (NF4), or in 8 (LLM.int8); needs bitsandbytes
load:dtype=bfloat16:./big                   weights as numbers of 16 bits
load:bits=4,device_map=auto:owner/name      spread over devices and memory by accelerate
lora:load:bits=4:./student                  a student that learns low-rank changes of weights in 4 bits (QLoRA)
"""

from __future__ import annotations

import importlib.util
import logging
import re
from typing import Any

import torch
from torch import nn

from limbeck.adapters.weights import wrapped
from limbeck.errors import BadValue, unknown

__all__ = ["lightly", "parse_light"]

FORM = re.compile(r"load:((?:\w+=[\w.]+,?)+):(.+)")
OPTIONS = ("bits", "dtype", "device_map")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAPS = ("auto", "balanced", "sequential")


def parse_light(spec: str) -> tuple[str, dict[str, Any]]:
    """Read a source `load:...:SOURCE`.

    Args:
        spec: the source.

    Returns:
        The directory or hub name, and options of `from_pretrained`.

    Raises:
        BadValue: another form, or a value that is not possible.
        UnknownName: another option.

    Example:
        >>> parse_light("load:dtype=bfloat16,device_map=auto:./big")
        ('./big', {'dtype': torch.bfloat16, 'device_map': 'auto'})
    """
    found = FORM.fullmatch(spec)
    if found is None:
        raise BadValue(f"{spec!r} is none of load:bits=4:DIR, load:dtype=bfloat16:DIR, load:device_map=auto:DIR")
    how: dict[str, Any] = {}
    for option in found[1].rstrip(",").split(","):
        name, _, value = option.partition("=")
        if name not in OPTIONS:
            raise unknown("option", name, OPTIONS, where=spec)
        how |= _option(name, value)
    return found[2], how


def _option(name: str, value: str) -> dict[str, Any]:
    """One option as transformers takes it."""
    if name == "bits":
        return {"quantization_config": _quantised(value)}
    possible = DTYPES if name == "dtype" else dict(zip(MAPS, MAPS, strict=True))
    if value not in possible:
        raise BadValue(f"{name} must be one of {', '.join(possible)}, got {value!r}")
    return {name: possible[value]}


def _quantised(bits: str) -> Any:
    """How bitsandbytes quantises to so many bits.

    Source: Dettmers et al., "QLoRA", arXiv:2305.14314, section 3 (4 bits); "LLM.int8()", arXiv:2208.07339 (8 bits).
    """
    if bits not in ("4", "8"):
        raise BadValue(f"bits must be 4 or 8, got {bits!r}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadValue("weights in fewer bits need bitsandbytes: pip install 'limbeck[quantised]'")
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every cast of every layer
    if bits == "8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def lightly(net: nn.Module, how: dict[str, Any]) -> nn.Module:
    """Say what a net is: `bits`, which are frozen where they are few, and `placed` where accelerate put it on devices.

    Args:
        net: as it was opened.
        how: the options that it was opened with.
    """
    config = how.get("quantization_config")
    if config is not None:
        net.bits = 8 if config.load_in_8bit else 4  # type: ignore[assignment]
        net.requires_grad_(False)
    net.placed = bool(getattr(wrapped(net), "hf_device_map", None))  # type: ignore[assignment]
    return net

"""Students that learn low-rank changes of frozen weights, by the peft library."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

from limbeck.adapters.weights import check_weights, wrapped
from limbeck.errors import BadValue, BadWeights

__all__ = ["open_adapter", "with_lora"]


def with_lora(
    net: nn.Module, rank: int = 16, alpha: int = 32, targets: tuple[str, ...] = (), seed: int = 0
) -> nn.Module:
    """Freeze a net and give its linear layers low-rank changes that learn.

    w = w0 + (alpha / rank) b a

    Args:
        net: a `CausalLM`, `Encoder`, `Seq2Seq` or `Sentence` net; it is changed in place.
        rank: of the changes.
        alpha: their scale.
        targets: names of the layers; all linear ones but the output layer by default.
        seed: of the starting values of a; b starts at zero.

    Returns:
        The net; at first it answers as before.

    Raises:
        BadValue: a net of no transformers model, or no layer of that name.

    Source: Hu et al., "LoRA", arXiv:2106.09685, section 4.1.
    """
    model = wrapped(net)
    if model is None:
        raise BadValue(f"LoRA needs a net of a transformers model, got {type(net).__name__}")
    task = "SEQ_CLS" if "SequenceClassification" in type(model).__name__ else None
    transposed = any(isinstance(m, Conv1D) for m in model.modules())
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets) or "all-linear",
        task_type=task,
        fan_in_fan_out=transposed,
    )
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _put(net, peft.get_peft_model(model, config))
    except ValueError as error:
        raise BadValue(f"LoRA: {str(error).splitlines()[0]}") from None


def open_adapter(net: nn.Module, directory: Path) -> nn.Module:
    """Put a saved adapter on the net of its base model.

    Args:
        net: the base; it is changed in place.
        directory: that holds adapter_config.json and adapter_model.safetensors.

    Returns:
        The net, its changes ready to learn on.

    Raises:
        BadWeights: an adapter that is missing, truncated, pickled or for another base.
    """
    check_weights(directory, "adapter_model")
    try:
        with _quiet():
            return _put(net, peft.PeftModel.from_pretrained(wrapped(net), directory, is_trainable=True)).eval()
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise BadWeights(f"{directory} does not fit its base: {str(error).strip().splitlines()[0]}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence peft's use of a name that transformers has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _put(net: Any, model: Any) -> nn.Module:
    """Hang the wrapped model into the net, and mark what may learn: the loop reads `trainable`."""
    for p in model.parameters():
        p.trainable = p.requires_grad
    setattr(net, "lm" if hasattr(net, "lm") else "model", model)
    return net  # type: ignore[no-any-return]

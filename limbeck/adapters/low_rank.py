"""Low-rank changes of the attention of UNets and transformers of diffusers, saved as diffusers saves them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.adapters.pipeline import Denoiser
from limbeck.errors import BadValue

__all__ = ["merged", "save_changes", "with_changes"]

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
FOLDER = "adapter"


def with_changes(net: Denoiser, rank: int = 16, alpha: int = 32, seed: int = 0) -> Denoiser:
    """Freeze a net and give its attention projections low-rank changes that learn.

    w = w0 + (alpha / rank) b a

    Args:
        net: a pipeline's; changed in place.
        rank: of the changes.
        alpha: their scale.
        seed: of the starting values of a; b starts at zero.

    Returns:
        The net; at first it answers as before.

    Raises:
        BadValue: a net without attention, or one that has changes already.

    Source: Hu et al., "LoRA", arXiv:2106.09685, section 4.1.
    """
    import peft

    if not any(name.endswith(PROJECTIONS) for name, _ in net.net.named_modules()):
        raise BadValue(f"LoRA changes attention, and the {type(net.net).__name__} of {net.frame.home} has none")
    if _changed(net):
        raise BadValue("this net has low-rank changes already")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(PROJECTIONS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, net.net)
    for name, p in net.named_parameters():
        p.requires_grad_("lora_" in name or name.startswith("second."))
        p.trainable = p.requires_grad  # type: ignore[attr-defined]
    net.net.eval()
    return net


def _changed(net: Denoiser) -> bool:
    return any("lora_" in name for name, _ in net.net.named_parameters())


def merged(net: Denoiser) -> Any:
    """The model of diffusers with its changes, if it has any, added to its weights; the net is left as it is."""
    if not _changed(net):
        return net.net
    from peft.tuners.lora import LoraLayer

    model: Any = copy.deepcopy(net.net)
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def save_changes(net: Denoiser, place: Path) -> None:
    """Save the changes alone, as `pytorch_lora_weights.safetensors` of diffusers, where there are any.

    Args:
        net: with changes or without.
        place: the pipeline's directory; they go into its folder `adapter`.
    """
    if not _changed(net):
        return
    from safetensors.torch import save_file

    model: nn.Module = net.net
    slot = net.frame.slot
    (place / FOLDER).mkdir()
    config: Any = model.peft_config["default"]  # type: ignore[index]
    found: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        if "lora_" in name:
            # where no scale is said, diffusers takes 1: it goes into b
            scale = config.lora_alpha / config.r if "lora_B" in name else 1.0
            found[f"{slot}.{name.replace('.default.', '.')}"] = (scale * weight.detach()).cpu().contiguous()
    save_file(found, place / FOLDER / "pytorch_lora_weights.safetensors", metadata={"format": "pt"})

"""Tiny pipelines of diffusers, made from their configs: 8 x 8 pictures, a few thousand weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from limbeck.adapters.weights import silent
from limbeck.beds.digits import splits

with warnings.catch_warnings(), silent():
    warnings.simplefilter("ignore")
    import diffusers

CLASSES = 10


def unet(classes: int = 0, channels: int = 1, side: int = 8, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return diffusers.UNet2DModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8, num_class_embeds=classes or None,
    ).eval()  # fmt: skip


def dit(channels: int = 1, side: int = 8) -> Any:
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=channels, num_layers=2, sample_size=side,
        patch_size=2, num_embeds_ada_norm=CLASSES,
    ).eval()  # fmt: skip


def vae() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(4, 8), layers_per_block=1, latent_channels=2,
        norm_num_groups=2, sample_size=16, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def write_unet(home: Path, scheduler: Any, model: Any = None, facts: str = "") -> Path:
    """A pipeline of a UNet, conditional on classes or not."""
    kind = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
    with silent():
        kind(model if model is not None else unet(), scheduler).save_pretrained(home)
    if facts:
        (home / "limbeck.json").write_text(facts)
    return home


def write_dit(home: Path, scheduler: Any) -> Path:
    """A transformer on latents, with its VAE."""
    with silent():
        diffusers.DiTPipeline(dit(2), vae(), scheduler).save_pretrained(home)
    return home


def write_text(home: Path, scheduler: Any, told: int | None = None) -> Path:
    """A text-conditional UNet with a tiny text encoder."""
    import transformers

    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4, attention_head_dim=8, cross_attention_dim=16, time_cond_proj_dim=told,
    ).eval()  # fmt: skip
    place = home.parent / f"{home.name}-words"
    place.mkdir(parents=True, exist_ok=True)
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghij", *(f"{c}</w>" for c in "abcdefghij")]
    (place / "vocab.json").write_text("{" + ", ".join(f'"{w}": {i}' for i, w in enumerate(words)) + "}")
    (place / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=6, pad_token="<|endoftext|>"
    )
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=6, eos_token_id=1, bos_token_id=0, pad_token_id=1,
        )
    ).eval()  # fmt: skip
    with silent():
        diffusers.StableDiffusionPipeline(
            vae(), encoder, tokenizer, model, scheduler, None, None, requires_safety_checker=False
        ).save_pretrained(home)
    return home


def digits(rows: int = 1000) -> dict[str, torch.Tensor]:
    """Digits in [-1, 1] with their classes."""
    columns = splits()["pool"].take(torch.arange(rows))
    return {"x": 2 * columns["x"] - 1, "y": columns["y"]}  # type: ignore[dict-item, operator]

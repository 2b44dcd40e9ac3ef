"""Turn a GGUF file of a language model into an ordinary directory of transformers, with whole weights.

    pip install gguf
    python -m tools.gguf SmolLM2-135M-Instruct.Q4_1.gguf ./smollm2

transformers takes a model that was read from GGUF for a quantised one and does not save it; its weights are whole, so
they are put into a model of the same configuration.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

__all__ = ["convert"]


def convert(file: Path, out: Path) -> None:
    """Read weights and tokenizer of a GGUF file, and save both.

    Args:
        file: the GGUF file.
        out: the directory.
    """
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))

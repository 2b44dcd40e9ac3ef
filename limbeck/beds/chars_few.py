"""Few characters of plays, read many times, with two teachers that learnt from nothing else.

The text is the first 20,000 characters of what `chars` trains on; "valid" and "test" are those of `chars`. "train" holds
windows of 64 characters that start anywhere, so that each character comes about four times. Teachers and student are
Llamas of one size; the teachers differ by the seed of their weights and batches alone, and were tuned on "valid".
"""

from __future__ import annotations

from pathlib import Path

import torch

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed, chars
from limbeck.data import Table
from limbeck.probes.language import nll, token_agreement, token_kl
from limbeck.rng import Rng

__all__ = ["FOLDERS", "SIZE", "bed", "second", "splits", "student", "teacher"]

SIZE, COVER = 20_000, 4  # characters, and how often each comes
ASSETS = Path(str(limbeck.assets.__file__)).parent
FOLDERS = (ASSETS / "chars-few-teacher", ASSETS / "chars-few-second")
WIDTH, LAYERS = 48, 2


def splits(seed: int) -> dict[str, Table]:
    """Cut the text into windows.

    Args:
        seed: where those of "train" start.
    """
    tokens, rows = chars.encoded("train")[:SIZE], COVER * SIZE // chars.WINDOW
    starts = Rng(("chars few", seed), torch.arange(rows)).integers("start", SIZE - chars.WINDOW + 1)
    mask_BT = (torch.arange(chars.WINDOW) >= chars.PROMPT).expand(rows, -1).contiguous()
    whole = torch.full((rows,), chars.WINDOW)
    train = Table({
        "tokens": tokens[starts[:, None] + torch.arange(chars.WINDOW)], "mask": mask_BT,
        "length": whole, "prompt": torch.full_like(whole, chars.PROMPT),
    })  # fmt: skip
    held = chars.splits(seed)
    return {"train": train, "valid": held["valid"], "test": held["test"]}


def _load(folder: Path) -> CausalLM:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return CausalLM(AutoModelForCausalLM.from_pretrained(folder).float().eval(), AutoTokenizer.from_pretrained(folder))


def teacher(seed: int = 0) -> CausalLM:
    """Load the first teacher, the same for every seed."""
    return _load(FOLDERS[0])


def second(seed: int = 0) -> CausalLM:
    """Load the second teacher, the same for every seed."""
    return _load(FOLDERS[1])


def student(seed: int, *, width: int = WIDTH, layers: int = LAYERS) -> CausalLM:
    """Build an untrained Llama of the teachers' size."""
    return chars.student(seed, width=width, layers=layers)


bed = Bed(
    key="chars_few",
    about="Few characters of plays, read many times, and two teachers as large as the student that read no others.",
    players={"teacher": teacher, "second": second, "student": student},
    data=splits,
    probes={"nll": nll(), "token_kl": token_kl(), "token_agreement": token_agreement()},
)

"""Characters of plays with a teacher of six layers: what its depth does can be taken apart, layer by layer.

Text, windows and splits are those of the bed `chars`. The teacher is a Llama that was trained on "train", its weights
kept in 16 bits; the student is untrained, as wide and half as deep.
"""

from __future__ import annotations

from pathlib import Path

import limbeck.assets
from limbeck.adapters.causal_lm import CausalLM
from limbeck.beds import Bed, chars
from limbeck.probes.language import nll, token_agreement, token_kl

__all__ = ["FOLDER", "LAYERS", "WIDTH", "bed", "student", "teacher"]

FOLDER = Path(str(limbeck.assets.__file__)).parent / "chars-deep-teacher"
LAYERS, WIDTH = 6, 48


def teacher(seed: int = 0) -> CausalLM:
    """Load the trained teacher, the same for every seed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(FOLDER).float()
    return CausalLM(model.eval(), AutoTokenizer.from_pretrained(FOLDER))


def student(seed: int, *, layers: int = LAYERS // 2) -> CausalLM:
    """Build an untrained Llama, as wide as the teacher."""
    return chars.student(seed, width=WIDTH, layers=layers)


bed = Bed(
    key="chars_deep",
    about="Characters of plays, with a trained teacher of six layers that are all at hand.",
    players={"teacher": teacher, "student": student},
    data=chars.splits,
    probes={"nll": nll(), "token_kl": token_kl(), "token_agreement": token_agreement()},
)

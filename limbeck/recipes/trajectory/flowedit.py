"""FlowEdit: a datum goes straight from its class to the one wanted, along the difference between two fields.

There is no inversion and nothing is optimised: both fields see the same noise, fresh in every step, so what the classes
have in common stays where it is, and the way is shorter than by the datum's noise.
"""

from __future__ import annotations

from limbeck.parts.editing import flow_edit
from limbeck.parts.solver import even
from limbeck.recipe import Make, Recipe
from limbeck.roles import frozen

# the last 33 of 50 steps; in the FLUX settings, the last 24 of 28
edit = flow_edit(times=even(50), skip=17, plain=0, copies=1, source=3.5, target=13.5)
FLUX = {"times": even(28), "skip": 4, "source": 1.5, "target": 5.5}

recipe = Recipe(
    key="flowedit", title="FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models",
    paper="arXiv:2412.08629", family="trajectory", kind="sampler", learns="nothing", teacher="none", product="edited",
    players={"student": frozen()},
    stages=(Make("edit", edit, into="edited", data="test"),),
    variants={"flux": {f"edit.rows.{name}": value for name, value in FLUX.items()}},
    deviates=(
        "times are even; the nets of the paper shift them by the size of the picture",
        "FLUX reads its scale of guidance, where two evaluations are made here",
    ),
)  # fmt: skip

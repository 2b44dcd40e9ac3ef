"""Claim: rounds of learnt corrections raise second answers, and their gain over first ones, which first turns do not.

Bed: the base player errs at a known rate and seldom corrects itself, and every answer can be checked.
"""

from __future__ import annotations

from limbeck.beds.chain import REQUEST, right_answer
from limbeck.parts.rollout import rollout
from limbeck.parts.transcript import accepted, improved, repeated, requested
from limbeck.probes.correction import two_turns
from limbeck.recipe import Arm, Claim, Tune, more
from limbeck.recipes.reasoning.stasc import FIGURES

short, verifier = rollout(max_new_tokens=6), right_answer()
on_bed = {"turns": two_turns(REQUEST, max_new_tokens=6), "verifier": verifier, "limit": 64}
alone = repeated(copies=6) >> short >> accepted(verifier=verifier)

claim = Claim(
    bed="chain",
    arms={
        "stasc": Arm(), "start": Arm(set={"rounds.times": 0}),
        "first turn": Arm(set={"rounds.correct.data": "train", "rounds.correct.rows": alone}),
        "unfiltered": Arm(set={"rounds.correct.rows.improved.gain": -1.0}),
    },
    probes={name: figure(**{**on_bed, "limit": 0}) for name, figure in FIGURES.items()},
    says=(
        more("second", "stasc", "start", by=0.1), more("gain", "stasc", "start", by=0.1),
        more("gain", "stasc", "first turn", by=0.1),
    ),
    set={
        "rounds.evolving.first.rows": repeated(copies=2) >> short,
        "rounds.correct.rows": requested(request=REQUEST) >> repeated(copies=2) >> short >> improved(verifier=verifier),
        **{f"rounds.figures.{name}.{key}": value for name in FIGURES for key, value in on_bed.items()},
        **{"rounds.evolving.first.chunk": 512, "rounds.correct.chunk": 512},
        **{"rounds.times": 4, "rounds.learn.steps": 30, "rounds.learn.batch_size": 64},
    },
    tune=Tune(
        "second", {a: {"student.optimizer.lr": (1e-4, 3e-4, 1e-3)} for a in ("stasc", "first turn", "unfiltered")}
    ),
    players={"student": "base"}, control="unfiltered",
)  # fmt: skip

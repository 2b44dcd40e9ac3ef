"""Claim: on fixed answers of an imperfect teacher a student ends further from the truth than it was; on fresh ones not.

Bed: the truth is a formula, so the distance from it is that of whole distributions at texts it wrote itself. `left` is
what the distance from the teacher on the rows learned from fell to since the student was nearest to the truth; the one
on held-out prompts is printed too (`proxy_rise`): where it rises as well, the student overfits its rows.
Fresh answers are the switch, so they are the control.
"""

from __future__ import annotations

from limbeck.parts.rollout import rollout
from limbeck.parts.trace import first
from limbeck.parts.transcript import repeated
from limbeck.probes.hacking import left, lowest, onset, rise
from limbeck.recipe import Arm, Claim, Tune, more, within

RATES = {"student.optimizer.lr": (2e-3, 4e-3, 8e-3)}
said = rollout(max_new_tokens=6)
by_oracle, by_teacher = said.on(student="oracle"), said.on(student="teacher")
BATCH, ROWS = "rounds.distill.student.batch", "ask.rows"
ARMS = ("offline", "five answers", "online teacher", "online student")

claim = Claim(
    bed="oracle_lm_taught",
    arms={
        "offline": Arm(), "five answers": Arm(set={f"{ROWS}.repeated.copies": 5}),
        "online teacher": Arm(set={BATCH: by_teacher}), "online student": Arm(set={BATCH: said}),
    },
    probes={
        "rise": rise(), "lowest": lowest(), "left": left(), "onset": onset(), "proxy_rise": rise(of="proxy"),
    },
    says=(
        more("rise", "offline", "online teacher", by=0.1), more("rise", "offline", "five answers", by=0.05),
        within("left", "offline", 0.7), within("rise", "online teacher", 0.04), within("rise", "online student", 0.04),
    ),
    set={
        "write.rows": by_oracle, "truth.rows": by_oracle, "echo.rows": by_teacher,
        ROWS: first(rows=20) >> repeated(copies=1) >> by_teacher,
        "write.chunk": 0, "ask.chunk": 0, "truth.chunk": 0, "echo.chunk": 0,
        "teacher.optimizer.lr": 1e-2, "teach.steps": 500, "teach.batch_size": 32,
        "warm.steps": 250, "warm.batch_size": 32,
        "rounds.times": 12, "rounds.distill.steps": 12, "rounds.distill.batch_size": 32,
    },
    tune=Tune("lowest", dict.fromkeys(ARMS, RATES)), control="online teacher",
)  # fmt: skip

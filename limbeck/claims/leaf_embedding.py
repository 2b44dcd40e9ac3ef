"""Claim: a tenth of the teacher finds nine tenths of what it finds, in its own index, truncated and rounded as it is.

Bed: relevance is known, and the teacher's prefixes are embeddings too. The control learns the same angles in another
space: alone it finds as much, in the teacher's index nothing. That documents of the teacher do not hurt is said with a
hundredth to spare; the paper has them help, which a student as good as its teacher cannot show.
The control also fails two of the bounds that the recipe keeps.
"""

from __future__ import annotations

from limbeck.parts.alignment import turned
from limbeck.parts.embedding import remember
from limbeck.probes.retrieval import excess, ndcg, shortfall
from limbeck.recipe import Arm, Claim, Tune, more, within

teacher = {"queries": "teacher", "documents": "teacher"}
aligned = {"queries": "aligned", "documents": "aligned"}
symmetric, asymmetric = ndcg(**aligned), ndcg(queries="aligned", documents="teacher")
truncated = [shortfall(of=ndcg(**who, dims=16), than=ndcg(**who)) for who in (aligned, teacher)]  # type: ignore[arg-type]
RATES = {"aligned.optimizer.lr.start": (3e-3, 1e-2, 3e-2)}

claim = Claim(
    bed="retrieval",
    arms={"leaf": Arm(), "turned": Arm(set={"ask.rows": remember() >> turned()})},
    probes={
        "symmetric": symmetric,
        "asymmetric": asymmetric,
        "lost": shortfall(of=symmetric, than=ndcg(**teacher)),
        "lost to the teacher's documents": shortfall(of=asymmetric, than=symmetric),
        "lost to 16 features, beyond the teacher's": excess(of=truncated[0], over=truncated[1]),
        "lost to int8": shortfall(of=ndcg(**aligned, levels=127), than=symmetric),  # type: ignore[arg-type]
    },
    says=(
        more("asymmetric", "leaf", "turned", by=0.4),
        within("lost", "leaf", 0.1),
        within("lost to the teacher's documents", "leaf", 0.01),
        within("lost to 16 features, beyond the teacher's", "leaf", 0.02),
        within("lost to int8", "leaf", 0.01),
    ),
    set={"distill.steps": 300},
    tune=Tune("symmetric", {"leaf": RATES, "turned": RATES}),
    seeds=5,
    control="turned",
)

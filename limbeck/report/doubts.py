"""What a report cannot tell, said in so many words."""

from __future__ import annotations

from limbeck.evaluate import WHO, Examination
from limbeck.report.reading import Record
from limbeck.report.words import MODELS

__all__ = ["FEW", "doubts"]

FEW = 30  # rows of a slice below which it is called small


def doubts(record: Record) -> list[str]:
    """What the report cannot tell, so that nobody reads more into it than there is."""
    exam, run = record.exam, record.run
    out = list(record.warnings)
    if record.status != "done" and not (record.status == "running" and exam):
        out.append(f"The run is {record.status}: what is shown is what was there when the report was written.")
    out += _doubts_of(exam) if exam else ["There is no evaluation: nothing is known of quality, speed or regressions."]
    if run.get("seed") is not None:
        out.append(f"One run with seed {run['seed']}: how much another seed would change is not in the intervals.")
    if not run.get("data"):
        out.append("No fingerprint of the data was recorded: whether the same data comes again cannot be checked.")
    if not run.get("argv"):
        out.append("The command was not recorded.")
    licenses = run.get("licenses") or {}
    missing = [name for name in ("teacher", "data") if not licenses.get(name)]
    if missing:
        out.append(f"The licence of the {' and of the '.join(missing)} is not stated; look before you ship.")
    return out


def _doubts_of(exam: Examination) -> list[str]:
    out = list(exam.notes)
    absent = [MODELS[w] for w in WHO if not any(w in q.values for q in exam.qualities)]
    if absent:
        out.append(f"The {' and the '.join(absent)} was not evaluated." if len(absent) == 1 else
                   f"These were not evaluated: {', '.join(absent)}.")  # fmt: skip
    n = max((q.n for q in exam.qualities), default=0)
    if n and n < 200:
        out.append(f"Only {n} rows were evaluated: small differences cannot be seen.")
    if any(not q.n for q in exam.qualities):
        names = ", ".join(q.name for q in exam.qualities if not q.n)
        out.append(f"{names}: one figure per model; nothing is known of its spread.")
    floors = [v.floor for q in exam.qualities for v in q.versus.values() if v.floor is not None]
    if floors and max(floors) > 0.05:
        out.append(f"So few rows differ that a test could not give p below {max(floors):.2g}, whatever the truth.")
    tests = sum(v.p is not None for q in exam.qualities for v in q.versus.values())
    if tests > 2:
        out.append(f"{tests} tests were made and their p-values are not corrected for that.")
    if not exam.costs:
        out.append("Speed, memory and size were not measured.")
    if not exam.confidences:
        out.append("No confidences were recorded: calibration is not known.")
    if exam.qualities and not exam.slices:
        out.append("No slices were given: a group of rows that got worse would not be seen.")
    return out

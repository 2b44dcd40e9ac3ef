"""Reports: what a run gave, for somebody who has to decide whether to ship the student; model cards; comparisons."""

from __future__ import annotations

from limbeck.report.card import write_card
from limbeck.report.compared import write_comparison
from limbeck.report.html import write_report
from limbeck.report.reading import formulas

__all__ = ["formulas", "write_card", "write_comparison", "write_report"]

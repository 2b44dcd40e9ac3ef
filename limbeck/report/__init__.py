"""Reports: what a run gave, for somebody who has to decide whether to ship the student; and its model card."""

from __future__ import annotations

from limbeck.report.card import write_card
from limbeck.report.html import write_report
from limbeck.report.reading import formulas

__all__ = ["formulas", "write_card", "write_report"]

"""Digits with 100 training rows, too few for the student alone."""

from __future__ import annotations

from limbeck.beds.digits import world

__all__ = ["bed"]

bed = world("digits_few", "Digits with 100 rows to learn from and a teacher that has seen 1000.", rows=100)

"""Digits with 300 training rows, of whose labels a fifth are wrong."""

from __future__ import annotations

from limbeck.beds.digits import world

__all__ = ["bed"]

bed = world("digits_noisy", "Digits with 300 rows to learn from and 20% wrong labels.", rows=300, wrong=0.2, width=64)

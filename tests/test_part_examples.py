"""The examples in the docstrings of parts: doctest itself passes them over, because a part is no function any more."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import limbeck
from limbeck.part import Spec

FOLDERS = ("limbeck.parts.", "limbeck.probes.", "limbeck.beds.")
MODULES = [m.name for m in pkgutil.walk_packages(limbeck.__path__, "limbeck.") if m.name.startswith(FOLDERS)]


def specs(module: ModuleType) -> list[Spec]:
    return [v for v in vars(module).values() if isinstance(v, Spec) and v.fn.__module__ == module.__name__]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_parts_are_true(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for spec in specs(module):
        found = doctest.DocTestParser().get_doctest(spec.fn.__doc__ or "", dict(vars(module)), spec.name, None, None)
        assert runner.run(found).failed == 0, spec.name


def test_parts_are_found() -> None:
    assert sum(len(specs(importlib.import_module(name))) for name in MODULES) > 60

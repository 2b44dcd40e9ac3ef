"""Descriptions: JSON that tells recipes apart, and pages of every recipe."""

import json
import re

import pytest

from limbeck.cite import bibtex
from limbeck.describe import describe, markdown, page
from limbeck.index import evidence, find, keys, load
from limbeck.override import flatten, override
from limbeck.recipe import Recipe


def test_a_description_changes_with_every_number_and_with_nothing_else() -> None:
    recipe = load("kd")
    before = json.dumps(describe(recipe))
    for path, value in flatten(recipe).items():
        if type(value) in (int, float):
            assert json.dumps(describe(override(recipe, {path: value + 1}))) != before, path
        assert json.dumps(describe(override(recipe, {path: value}))) == before, path


@pytest.mark.parametrize("key", keys())
def test_every_recipe_has_a_page(key: str) -> None:
    recipe, record = load(key), find(key)
    shown = page(recipe, record, evidence(key))
    # pure JSON, with no NaN and nothing lost on the way
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    text = markdown(shown)
    assert all(part["name"] in text for part in shown["parts"]) and record["title"] in text
    # the index, which reads the text, and the recipe itself agree
    assert set(record["parts"]) <= {part["name"] for part in shown["parts"]} | _varied(recipe)
    assert {name: record[name] for name in ("key", "title", "paper", "family", "product")} == {
        name: getattr(recipe, name) for name in ("key", "title", "paper", "family", "product")
    }
    if recipe.claim is not None:
        assert record["claim"] == "; ".join(map(str, recipe.claim.says))


def _varied(recipe: Recipe) -> set[str]:
    """The names of parts that occur in what a variant sets."""
    return set(re.findall(r"(\w+)\(", repr(recipe.variants)))


def test_a_paper_without_an_arxiv_number_is_cited_by_its_address() -> None:
    record = {"key": "x", "title": "T", "paper": "https://example.org/x.pdf"}
    assert "url = {https://example.org/x.pdf}" in bibtex(record)
    assert "howpublished = {KDD 2006}" in bibtex(record | {"paper": "KDD 2006"})

"""The index: records from syntax trees, statuses from fingerprints."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck import index
from limbeck.errors import BadValue, BrokenRecipe, UnknownName
from limbeck.recipe import less, more

RECIPE = '''"""A recipe."""

from limbeck.parts import schedule
from limbeck.parts.divergence import jsd as divergence
from limbeck.parts.optimizer import adamw, sgd
from limbeck.recipe import Learn, Phase, Recipe
from limbeck.roles import frozen, learning

recipe = Recipe(
    key="KEY",
    title="On-Policy Distillation",
    paper="arXiv:2306.13649",
    family="lm",
    kind="method",
    learns="the student",
    teacher="white-box",
    players={"student": learning(adamw(lr=schedule.cosine())), "teacher": frozen()},
    stages=(Learn("distill", (Phase("student", ("student",), divergence(beta=0.5)),), steps=10),),
)
'''
CLAIM = '''"""A claim."""

from limbeck.probes.divergence import exact_kl
from limbeck.recipe import Arm, Claim, less, within

claim = Claim(
    bed="chain",
    arms={"on": Arm(), "off": Arm("kd")},
    probes={"kl": exact_kl()},
    says=(less("kl", "on", "off", by=0.05), within("kl", "on", 0.5)),
    no_control="none",
)
'''
SAID = "kl[on] <= kl[off] - 0.05; kl[on] <= 0.5 on every seed"
ONE_FILE = RECIPE.replace("recipe = ", CLAIM.split('"""\n')[1] + "\nrecipe = ")[:-2] + "    claim=claim,\n)\n"

PART = '''"""Divergences."""
from limbeck.kernels import (  # a comment
    fused,
)


@part
def jsd():
    """JSD."""
    return 1
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package of two recipes, a claim, a part, a kernel, a bed, a probe."""
    files = {
        "recipes/lm/on_policy.py": RECIPE.replace("KEY", "on-policy"),
        "recipes/baselines/kd.py": RECIPE.replace("KEY", "kd").replace("lm", "baselines"),
        "claims/on_policy.py": CLAIM,
        "parts/divergence.py": PART,
        "parts/optimizer.py": "@part\ndef adamw(): return 1\n",
        "parts/unused.py": "def unused(): return 1\n",
        "kernels/fused.py": "from . import low\nx = 1\n",
        "kernels/low.py": "y = 1\n",
        "beds/chain.py": "z = 1\n",
        "probes/divergence.py": "def exact_kl(): return 1\n",
    }
    for name, text in files.items():
        write(tmp_path / name, text)
    (tmp_path / "evidence").mkdir()
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def prove(root: Path, key: str = "on-policy", status: str = "holds") -> None:
    verdicts = [{"says": said} for said in SAID.split("; ")]
    found = {"key": key, "status": status, "fingerprint": index.fingerprint(key, root), "verdicts": verdicts}
    write(root / "evidence" / f"{key}.json", json.dumps(found))


def test_a_record_says_what_the_file_says(root: Path) -> None:
    # what is called counts (adamw, cosine, jsd by its real name), what is only imported does not (sgd)
    assert index.find("on-policy", root) == {
        "key": "on-policy",
        "title": "On-Policy Distillation",
        "paper": "arXiv:2306.13649",
        "family": "lm",
        "kind": "method",
        "learns": "the student",
        "teacher": "white-box",
        "product": "student",
        "parts": ["adamw", "cosine", "jsd"],
        "claim": SAID,
        "status": "unproved",
    }
    assert index.find("kd", root)["claim"] is None


def test_records_are_sorted_by_family_and_key(root: Path) -> None:
    assert [(r["family"], r["key"]) for r in index.records(root)] == [("baselines", "kd"), ("lm", "on-policy")]


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("from limbeck.parts import schedule", "from from", 3, "syntax error"),
        ("recipe = Recipe(", "other = Recipe(", 1, "no `recipe = Recipe(...)`"),
        ('key="on-policy"', 'key="onpolicy"', 9, "'onpolicy' does not belong"),
        ('family="lm"', 'family="nlp"', 9, "folder 'lm'"),
        ('title="On-Policy Distillation"', 'title=TITLE + "!"', 11, "'title' must be a string constant"),
        ('    paper="arXiv:2306.13649",\n', "", 9, "has no 'paper'"),
        ('    kind="method",\n', "    **more,\n", 14, "cannot be read"),
    ],
)
def test_a_broken_file_is_an_error_with_its_place(root: Path, old: str, new: str, line: int, said: str) -> None:
    path = root / "recipes/lm/on_policy.py"
    assert old in path.read_text()
    write(path, path.read_text().replace(old, new))
    with pytest.raises(BrokenRecipe) as caught:
        index.records(root)
    assert str(caught.value).startswith(f"{path}:{line}: ") and said in str(caught.value)
    # a user's own file of the same fault is the user's mistake
    if "belong" not in said and "folder" not in said:
        with pytest.raises(BadValue, match=f":{line}: "):
            index.find(str(path), root)


def test_an_unknown_key_names_the_near_one(root: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'on-policy'"):
        index.find("on-polcy", root)
    with pytest.raises(BadValue, match="no recipe file"):
        index.find("./nowhere.py", root)


def test_search_wants_every_word_in_key_title_or_parts(root: Path) -> None:
    found = index.records(root)
    assert [r["key"] for r in index.search(found, "on policy ADAMW")] == ["kd", "on-policy"]
    assert [r["key"] for r in index.search(found, "on_policy", family="lm", teacher="white-box")] == ["on-policy"]
    assert index.search(found, "adamw diffusion") == []
    with pytest.raises(UnknownName, match="did you mean 'white-box'"):
        index.search(found, teacher="whitebox")


@pytest.mark.parametrize(
    "name",
    ["recipes/lm/on_policy.py", "recipes/baselines/kd.py", "claims/on_policy.py", "parts/divergence.py",
     "parts/optimizer.py", "kernels/fused.py", "kernels/low.py", "beds/chain.py", "probes/divergence.py"],
)  # fmt: skip
def test_evidence_lapses_when_anything_it_rests_on_changes(root: Path, name: str) -> None:
    prove(root)
    assert index.find("on-policy", root)["status"] == "holds"
    # a comment, layout or a docstring changes nothing
    path = root / name
    write(path, '"""Another docstring."""\n\n\n' + path.read_text().split('."""', 1)[-1] + "\n# a comment\n")
    assert index.find("on-policy", root)["status"] == "holds"
    # a number does
    write(path, path.read_text() + "changed = 1\n")
    assert index.find("on-policy", root)["status"] == "unproved"


@pytest.mark.parametrize("name", ["parts/unused.py", "claims/kd.py"])
def test_evidence_stands_when_something_unrelated_changes(root: Path, name: str) -> None:
    # the claim names the recipe kd, and rests on that, but not on what is claimed of it
    prove(root, status="fails")
    write(root / name, CLAIM)
    assert index.find("on-policy", root)["status"] == "fails"


def test_a_claim_is_in_the_words_of_the_evidence_while_that_stands(root: Path) -> None:
    prove(root)
    path = root / "evidence/on-policy.json"
    write(path, path.read_text().replace("0.5 on every seed", "one half"))
    assert index.find("on-policy", root)["claim"] == SAID.replace("0.5 on every seed", "one half")
    write(root / "beds/chain.py", "z = 2\n")
    assert index.find("on-policy", root)["claim"] == SAID


def test_a_recipe_may_have_its_claim_in_its_own_file(root: Path) -> None:
    (root / "claims/on_policy.py").unlink()
    assert index.find("on-policy", root)["claim"] is None
    path = root / "recipes/lm/on_policy.py"
    write(path, ONE_FILE.replace("KEY", "on-policy"))
    assert index.find("on-policy", root)["claim"] == SAID
    prove(root)
    assert index.find("on-policy", root)["status"] == "holds"
    write(root / "beds/chain.py", "z = 2\n")
    assert index.find("on-policy", root)["status"] == "unproved"


def test_a_claim_in_both_places_is_an_error_with_its_place(root: Path) -> None:
    path = root / "recipes/lm/on_policy.py"
    write(path, ONE_FILE.replace("KEY", "on-policy"))
    line = path.read_text().splitlines().index("claim = Claim(") + 1
    with pytest.raises(BrokenRecipe, match=f"{path}:{line}: a claim here, and another in {root}/claims/on_policy.py"):
        index.find("on-policy", root)
    # a recipe that says that it has none of its own does not have two
    write(path, RECIPE.replace("KEY", "on-policy")[:-2] + "    claim=None,\n)\n")
    assert index.find("on-policy", root)["claim"] == SAID


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("claims = Claim()\n", 1, "no `claim = Claim(...)`"),
        ("\nclaim = (\n", 2, "syntax error"),
        ("x = 1\nclaim = Recipe()\n", 2, "no `claim"),
    ],
)
def test_a_broken_claim_is_an_error_with_its_place(root: Path, text: str, line: int, said: str) -> None:
    path = root / "claims/on_policy.py"
    write(path, text)
    with pytest.raises(BrokenRecipe) as caught:
        index.records(root)
    assert str(caught.value).startswith(f"{path}:{line}: {said}")


def test_a_recipe_given_by_its_path_has_the_claim_in_that_file_or_none(root: Path) -> None:
    path = root / "recipes/lm/on_policy.py"
    assert index.find(str(path), root)["claim"] is None
    write(path, ONE_FILE.replace("KEY", "on-policy"))
    assert index.find(str(path), root)["claim"] == SAID


def test_a_loaded_recipe_has_the_claim_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from limbeck.claims import vkd as claimed
    from limbeck.recipes.classic import vkd

    assert vkd.recipe.claim is None
    assert index.load("vkd").claim is claimed.claim
    assert index.load("kd").claim is None
    monkeypatch.setitem(sys.modules, "limbeck.claims.vkd", None)
    with pytest.raises(BrokenRecipe, match=r"claims/vkd\.py: cannot be imported"):
        index.load("vkd")


def test_evidence_lapses_with_the_version_of_torch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove(root)
    monkeypatch.setattr("limbeck.sources.metadata.version", lambda name: "99.1.0")
    assert index.find("on-policy", root)["status"] == "unproved"


def test_malformed_evidence_is_an_error(root: Path) -> None:
    for text, said in (
        ('{"status": "proved", "fingerprint": "0"}', "status 'proved'"),
        ('{"status": "holds", "fingerprint": "0"}', "'verdicts'"),
        ('{"status": "holds", "fingerprint": "0", "verdicts": [{"says": 1}]}', "verdicts without words"),
    ):
        write(root / "evidence/on-policy.json", text)
        with pytest.raises(BrokenRecipe, match=rf"on-policy\.json: not the evidence of a claim: {said}"):
            index.records(root)


def test_four_hundred_recipes_are_read_without_torch(root: Path) -> None:
    for i in range(400):
        write(root / f"recipes/lm/r_{i}.py", RECIPE.replace("KEY", f"r-{i}"))
        write(root / f"claims/r_{i}.py", CLAIM)
        prove(root, f"r-{i}") if i % 4 == 0 else None
    start = time.perf_counter()
    found = index.records(root)
    print(f"402 recipes, 100 with evidence: {time.perf_counter() - start:.3f} s")
    assert len(found) == 402 and sum(r["status"] == "holds" for r in found) == 100
    code = "import sys, limbeck.index as i; i.records(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_file_of_the_users_own_is_loaded(tmp_path: Path) -> None:
    text = RECIPE.replace("KEY", "mine")
    text = text.replace(
        "from limbeck.parts.divergence import jsd as divergence\n",
        "from limbeck.part import part\n@part\ndef divergence(players, batch, *, beta: float = 0.1): ...\n",
    )
    write(tmp_path / "own.py", text)
    assert index.find(str(tmp_path / "own.py"))["parts"] == ["adamw", "cosine", "divergence"]
    assert index.load(str(tmp_path / "own.py")).key == "mine"
    write(tmp_path / "own.py", text + "import nothing_of_that_name\n")
    with pytest.raises(BrokenRecipe, match=r"own\.py: cannot be imported: ModuleNotFoundError"):
        index.load(str(tmp_path / "own.py"))


@pytest.mark.parametrize(
    "said", ["more('p', 'a', 'b', by=-0.1)", "less('p', 'a', 'b', by=-0.1)", "less('p', 'a', 'b', by=0.0)"]
)
def test_inequalities_read_without_import_are_those_printed(said: str) -> None:
    printed = {"more": more, "less": less}[said[:4]]("p", "a", "b", by=float(said.partition("by=")[2][:-1]))
    assert index._inequality(ast.parse(said, mode="eval").body) == str(printed)

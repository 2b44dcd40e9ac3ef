"""Fingerprints of sources: what they follow, and which changes they see."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import BrokenRecipe
from limbeck.sources import Sources

CODE = '''"""Docstring."""
import math


def area(r: float, *, scale: float = 2.0) -> float:
    """Of a disc."""
    return scale * math.pi * r ** 2


class Disc:
    """A disc."""

    edges = 0
'''


def marks(folder: Path, text: str) -> tuple[str, str]:
    """The meaning and the letters of one file with that text."""
    path = folder / "one.py"
    path.write_text(text)
    sources = Sources(folder, {})
    return sources.meaning([path]), sources.letters([path])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Docstring."""', '"""Another."""'),
        ('"""Docstring."""\n', ""),
        ('    """Of a disc."""\n', ""),
        ('    """A disc."""\n', '    """Round."""\n'),
        ("import math", "import math  # for pi"),
        ("scale * math.pi * r ** 2", "(scale*math.pi) * r**2"),
        ("r: float, *, scale: float = 2.0", "\n    r: float,\n    *,\n    scale: float = 2.0\n"),
        ("edges = 0", "edges = 0x0"),
    ],
)
def test_what_python_does_not_see_keeps_the_meaning_but_not_the_letters(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    before, after = marks(tmp_path, CODE), marks(tmp_path, CODE.replace(old, new))
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.0", "2.5"),
        ("r ** 2", "r ** 3"),
        ("r ** 2", "2 ** r"),
        ("scale * math.pi", "scale + math.pi"),
        ("*, scale", "scale"),
        ("r: float", "r: int"),
        ("def area", "async def area"),
        ("edges = 0", "edges = False"),
        ("edges = 0", "edges = 0\n    corners = 0"),
        ("import math", "import cmath as math"),
        ("class Disc:", "class Disc(dict):"),
    ],
)
def test_what_python_sees_changes_the_meaning(tmp_path: Path, old: str, new: str) -> None:
    assert old in CODE
    assert marks(tmp_path, CODE)[0] != marks(tmp_path, CODE.replace(old, new))[0]


@settings(deadline=None)
@given(a=st.integers(-5, 5), b=st.integers(-5, 5))
def test_programs_mean_the_same_only_if_their_numbers_are_equal(
    tmp_path_factory: pytest.TempPathFactory, a: int, b: int
) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    one, two = (marks(folder, f"x = [{n}, 'text']\n")[0] for n in (a, b))
    assert (one == two) == (a == b)


def test_a_string_that_is_no_docstring_counts(tmp_path: Path) -> None:
    # A bare string is a docstring only at the start of a body.
    assert marks(tmp_path, "x = 1\n'one'\n")[0] != marks(tmp_path, "x = 1\n'two'\n")[0]


def test_the_name_of_a_file_is_part_of_what_it_says(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    sources = Sources(tmp_path, {})
    assert sources.meaning([tmp_path / "a.py"]) != sources.meaning([tmp_path / "b.py"])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose files import each other in every way that there is."""
    files = {
        "parts/a.py": "from limbeck.parts.b import (  # why\n    one,\n    two as zwei,\n)\n",
        "parts/b.py": "from . import c\nfrom ..kernels import fast\nimport limbeck.adapters.d as d, math\n",
        "parts/c.py": "from limbeck.parts import a\n",
        "kernels/fast.py": "import torch\nfrom limbeck.loop import run\n",
        "kernels/__init__.py": "",
        "adapters/d.py": "x = 1\n",
        "beds/plain.py": "y = 1\n",
        "beds/other.py": "y = 2\n",
        "loop.py": "run = 1\n",
        "recipes/mine.py": 'r = Recipe(claim=Claim(bed="plain", arms={"a": Arm(), "b": Arm("rival")}))\n',
        "recipes/rival.py": "from limbeck.parts.a import one\nr = Recipe()\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def follow(root: Path, name: str, **recipes: str) -> set[str]:
    sources = Sources(root, {key: root / path for key, path in recipes.items()})
    return {p.relative_to(root).as_posix() for p in sources.closure(root / name)}


def test_imports_of_every_form_are_followed_round_circles(package: Path) -> None:
    # The loop and libraries are not watched: what they do is not part of a method.
    parts = {"parts/a.py", "parts/b.py", "parts/c.py", "kernels/__init__.py", "kernels/fast.py", "adapters/d.py"}
    for start in ("parts/a.py", "parts/b.py", "parts/c.py"):
        assert follow(package, start) == parts


def test_a_claim_rests_on_its_bed_and_on_the_recipes_of_its_arms(package: Path) -> None:
    found = follow(package, "recipes/mine.py", rival="recipes/rival.py", mine="recipes/mine.py")
    assert {"beds/plain.py", "recipes/rival.py", "parts/c.py"} <= found
    assert "beds/other.py" not in found
    # A key that no recipe has is no file.
    assert follow(package, "recipes/mine.py") == {"recipes/mine.py", "beds/plain.py"}
    text = (package / "recipes/mine.py").read_text()
    (package / "recipes/mine.py").write_text(text.replace("plain", "other"))
    assert "beds/other.py" in follow(package, "recipes/mine.py")


def test_a_claim_in_its_own_file_rests_on_the_same_and_not_on_the_claims_of_others(package: Path) -> None:
    claims = package / "claims"
    claims.mkdir()
    (claims / "mine.py").write_text(
        "from limbeck.recipes.helper import SETS\nfrom limbeck.claims import _size\n"
        'claim = Claim(bed="plain", arms={"a": Arm(), "b": Arm("rival")})\n'
    )
    (claims / "_size.py").write_text("from limbeck.beds import other\n")
    (claims / "rival.py").write_text('claim = Claim(bed="third", arms={"a": Arm("fourth")})\n')
    (package / "recipes/mine.py").write_text("recipe = Recipe()\n")
    (package / "recipes/helper.py").write_text("from limbeck.kernels import fast\n")
    sources = Sources(package, {key: package / f"recipes/{key}.py" for key in ("mine", "rival", "fourth")})
    found = sources.closure(package / "recipes/mine.py", claims / "mine.py")
    names = {path.relative_to(package).as_posix() for path in found}
    assert names >= {"recipes/mine.py", "claims/mine.py", "claims/_size.py", "beds/plain.py", "beds/other.py"}
    assert names >= {"recipes/rival.py", "parts/a.py", "recipes/helper.py", "kernels/fast.py"}
    assert not names & {"claims/rival.py", "recipes/fourth.py", "beds/third.py"}
    # the order in which they are named does not matter
    assert found == sources.closure(claims / "mine.py", package / "recipes/mine.py")


def test_a_bed_or_an_arm_that_changes_is_seen(package: Path) -> None:
    def mark() -> str:
        sources = Sources(package, {"rival": package / "recipes/rival.py"})
        return sources.meaning(sources.closure(package / "recipes/mine.py"))

    seen = [mark()]
    for name in ("beds/plain.py", "recipes/rival.py", "adapters/d.py"):
        path = package / name
        path.write_text(path.read_text() + "z = 3\n")
        seen.append(mark())
    assert len(set(seen)) == 4
    (package / "beds/other.py").write_text("y = 5\n")
    (package / "loop.py").write_text("run = 2\n")
    assert mark() == seen[-1]


@pytest.mark.parametrize(("content", "line"), [(b"x = 1\ny = (\n", 2), (b"x = 1\n\n  z = 2\n", 3), (b"x = '\0'\n", 1)])
def test_what_is_no_program_is_told_with_its_place(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    with pytest.raises(BrokenRecipe, match=rf"bad\.py:{line}: syntax error"):
        Sources(tmp_path, {}).tree(path)


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text("x = 1\n")
    sources = Sources(tmp_path, {})
    before = sources.letters([path])
    path.write_text("x = 2\n")
    assert sources.letters([path]) == before
    assert Sources(tmp_path, {}).letters([path]) != before

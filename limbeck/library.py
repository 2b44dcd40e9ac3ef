"""The library of data sets on this machine: folders that were added once and are found by name.

They lie in the folder that LIMBECK_DATA names, else in the user's cache. Each added folder carries `SHA256.json`, a
hash of every file, and is refused when it no longer matches.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from limbeck.errors import BadData, BadValue, unknown

__all__ = ["add", "find", "home", "names"]

HASHES = "SHA256.json"


def home() -> Path:
    """The folder of the library."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LIMBECK_DATA") or Path(cache) / "limbeck" / "data")


def names() -> list[str]:
    """The names of the data sets that are there."""
    return sorted(p.name for p in home().iterdir() if p.is_dir()) if home().is_dir() else []


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != HASHES)
    out = {}
    for path in files:
        with path.open("rb") as file:
            out[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def add(folder: str | Path) -> Path:
    """Copy a folder into the library, with a hash of every file.

    Args:
        folder: its last name is the name by which it is found.

    Returns:
        Where it lies now.

    Raises:
        BadData: no such folder, or an empty one.
        BadValue: the library has another folder of that name.
    """
    folder = Path(folder)
    hashes = _hashes(folder) if folder.is_dir() else {}
    if not hashes:
        raise BadData(f"{folder} is not a folder with files")
    place = home() / folder.resolve().name
    if place.exists():
        if _hashes(place) != hashes:
            raise BadValue(f"{place} is there already and differs; rename the folder, or remove the old one")
        return place
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    (part / HASHES).write_text(json.dumps(hashes, indent=1))
    os.replace(part, place)
    return place


def find(name: str) -> Path:
    """Find a data set of the library, and check its files where it has hashes.

    Args:
        name: the name of its folder.

    Returns:
        The folder.

    Raises:
        UnknownName: no data set of that name.
        BadData: a file that was changed, or is missing.
    """
    place = home() / name
    if name not in names():
        raise unknown("data set", name, names(), where=str(home()))
    if (place / HASHES).exists():
        known, now = json.loads((place / HASHES).read_text()), _hashes(place)
        odd = sorted(k for k in known.keys() | now.keys() if known.get(k) != now.get(k))
        if odd:
            raise BadData(f"{place / odd[0]} is not what was added: remove the folder and add it again")
    return place

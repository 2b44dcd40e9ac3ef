"""What `limbeck doctor` reports: versions, devices, memory, disk, and what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

__all__ = ["examine"]

GIB = 2**30


def examine() -> dict[str, Any]:
    """Look at this machine and this installation.

    Returns:
        JSON: versions of limbeck's dependencies, what torch can use, memory and disk in GiB, the cache of models, the
        optional extras, and the list of what is missing (empty if limbeck can run).
    """
    needed, extras = _requirements()
    versions = {name: _installed(name) for name in needed}
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    torch, problem = _torch()
    missing = [f"package {name}" for name, version in versions.items() if version is None]
    missing += [problem] * bool(problem)
    writable = _writable(cache)
    missing += [] if writable else [f"a cache that can be written: {cache} (set HF_HOME)"]
    return {
        "limbeck": _installed("limbeck"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "torch": torch,
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "memory_free_gib": round(psutil.virtual_memory().available / GIB, 1),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / GIB, 1),
        "cpus": os.cpu_count(),
        "cache": str(cache),
        "cache_writable": writable,
        "extras": {extra: {name: _installed(name) for name in names} for extra, names in extras.items()},
        "missing": missing,
    }


def _requirements() -> tuple[list[str], dict[str, list[str]]]:
    """The packages that limbeck needs, and those of each extra for users."""
    needed: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("limbeck") or ():
        name = re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if extra is None:
            needed.append(name)
        elif extra[1] != "dev":
            extras.setdefault(extra[1], []).append(name)
    return needed, extras


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> tuple[dict[str, Any], str]:
    """What torch can use, and why not where it cannot be imported."""
    try:
        import torch
    except Exception as error:
        return {}, f"a torch that can be imported: {error}"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cuda": torch.cuda.is_available(), "devices": devices, "threads": torch.get_num_threads()}, ""


def _writable(folder: Path) -> bool:
    """Whether a file can be written there, or where the folder would be made."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False

"""Every error that limbeck raises on purpose.

LimbeckError                (UserError, RunError): what to catch to catch all
├── UserError               the caller can mend it             exit 2
│   ├── UnknownName         no recipe, player, part or hyper-parameter of that name
│   ├── BadValue            a value of the wrong type or out of range
│   ├── BadData             data that is empty, ragged, not finite or out of range
│   ├── BadWeights          weights that are missing, truncated, pickled or of another shape
│   ├── Mismatch            two things that do not fit together (vocabularies, classes, runs)
│   └── RunConflict         a run directory that is in use or belongs to another recipe
└── RunError                something failed while running     exit 1
    ├── NotFinite           a loss, gradient or weight became NaN or infinite
    ├── BadCheckpoint       a checkpoint whose hash does not match its contents
    ├── BrokenRecipe        a recipe or part breaks the contract of the loop
    └── TeacherUnavailable  a remote teacher or sampler stopped answering

Messages are one line: what was wrong, where, what is possible, and "did you mean".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadCheckpoint",
    "BadData",
    "BadValue",
    "BadWeights",
    "BrokenRecipe",
    "LimbeckError",
    "Mismatch",
    "NotFinite",
    "RunConflict",
    "RunError",
    "TeacherUnavailable",
    "UnknownName",
    "UserError",
    "unknown",
]


class UserError(Exception):
    """A mistake that the caller can mend; the command line returns `exit_code`."""

    exit_code = 2


class UnknownName(UserError, KeyError):
    """No recipe, player, part or hyper-parameter of that name."""

    __str__ = Exception.__str__


class BadValue(UserError):
    """A value of the wrong type or out of range."""


class BadData(UserError):
    """Data that is empty, ragged, not finite or out of range."""


class BadWeights(UserError):
    """Weights that are missing, truncated, pickled or of another shape."""


class Mismatch(UserError):
    """Two things that do not fit together: vocabularies, numbers of classes, runs."""


class RunConflict(UserError):
    """A run directory that is in use, or that belongs to another recipe."""


class RunError(Exception):
    """Something failed while running; the command line returns `exit_code`."""

    exit_code = 1


class NotFinite(RunError):
    """A loss, a gradient or a weight became NaN or infinite."""


class BadCheckpoint(RunError):
    """A checkpoint whose hash does not match its contents."""


class BrokenRecipe(RunError):
    """A recipe or a part breaks the contract of the loop."""


class TeacherUnavailable(RunError):
    """A remote teacher or sampler stopped answering."""


LimbeckError = (UserError, RunError)


def unknown(kind: str, name: str, choices: Iterable[str], *, where: str = "") -> UnknownName:
    """Build the error for a name that does not exist, with the nearest ones that do.

    Args:
        kind: what was looked up, in words ("recipe", "hyper-parameter").
        name: the name as given.
        choices: the names that exist.
        where: the thing that was searched, if it has a name.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> str(unknown("recipe", "gdk", ["gkd", "kd"]))
        "unknown recipe 'gdk'; did you mean 'gkd'? possible: gkd, kd"
    """
    options = sorted(choices)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    shown = ", ".join(options[:20]) + (f", and {len(options) - 20} more" if len(options) > 20 else "")
    place = f" in {where}" if where else ""
    return UnknownName(f"unknown {kind} {name!r}{place}{guess} possible: {shown or 'none'}")

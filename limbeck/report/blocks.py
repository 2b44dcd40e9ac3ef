"""The blocks that a report is made of; each knows itself as Markdown, and `page.html.j2` knows it as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup

__all__ = ["Block", "Bullets", "Case", "Cell", "Code", "Figures", "Folded", "Para", "Plot", "Section", "Table", "Tiles"]


def cell_of(text: str) -> str:
    """Escape text for a cell of a Markdown table, or for one line of prose.

    Example:
        >>> cell_of("a|b <c> [d](e)")
        'a\\\\|b &lt;c> \\\\[d\\\\](e)'
    """
    return re.sub(r"([|\[\]`*_\\])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def fenced(text: str, language: str = "") -> str:
    """Text in a fence that no run of backticks inside it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


@dataclass(frozen=True)
class Para:
    """A paragraph."""

    tag: ClassVar[str] = "para"
    text: str

    def markdown(self) -> str:
        """The paragraph, escaped."""
        return cell_of(self.text)


@dataclass(frozen=True)
class Bullets:
    """Sentences with a mark: good, bad, open or none."""

    tag: ClassVar[str] = "bullets"
    items: Sequence[tuple[str, str]]

    def markdown(self) -> str:
        """A list; the mark is a word."""
        words = {"good": "**Good.** ", "bad": "**Bad.** ", "open": "**Open.** "}
        return "\n".join(f"- {words.get(mark, '')}{cell_of(text)}" for mark, text in self.items)


@dataclass(frozen=True)
class Cell:
    """A cell whose text is also drawn."""

    text: str
    svg: Markup

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows, numbers stand on the right.

    Args:
        caption: what it shows.
        head: names of the columns.
        rows: the cells, one for each column.
        wide: columns of running text, which stand on the left.
    """

    tag: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    wide: frozenset[int] = frozenset({0})

    def markdown(self) -> str:
        """The caption, and a table of pipes; drawn columns are left out."""
        shown = [i for i, name in enumerate(self.head) if name]
        lines = [[cell_of(self.head[i]) for i in shown], ["---" if i in self.wide else "---:" for i in shown]]
        lines += [[cell_of(str(row[i])) for i in shown] for row in self.rows]
        return f"{cell_of(self.caption)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Plot:
    """A drawing with its title and what it says in words."""

    title: str
    svg: Markup
    says: str


@dataclass(frozen=True)
class Figures:
    """Drawings side by side; `file`, beside the page, holds them too."""

    tag: ClassVar[str] = "figures"
    plots: Sequence[Plot]
    file: str = ""

    def markdown(self) -> str:
        """What the drawings say, in words, below the file if there is one."""
        picture = f"![{cell_of(', '.join(p.title for p in self.plots))}]({self.file})\n\n" if self.file else ""
        return picture + "\n".join(f"- **{cell_of(p.title)}**: {cell_of(p.says)}" for p in self.plots)


@dataclass(frozen=True)
class Code:
    """Text that is to be taken literally."""

    tag: ClassVar[str] = "code"
    text: str
    language: str = ""

    def markdown(self) -> str:
        """A fenced block."""
        return fenced(self.text, self.language)


@dataclass(frozen=True)
class Case:
    """One row of data with what the models made of it, side by side.

    Args:
        title: which row it is, and what went wrong.
        asked: (label, text) of the input and of the right answer.
        answers: (who, label, text) per model.
    """

    tag: ClassVar[str] = "case"
    title: str
    asked: Sequence[tuple[str, str]]
    answers: Sequence[tuple[str, str, str]]

    def markdown(self) -> str:
        """A heading and fenced texts."""
        texts = [*self.asked, *((label, text) for _, label, text in self.answers)]
        return "\n\n".join([f"#### {cell_of(self.title)}", *(f"{cell_of(k)}:\n\n{fenced(v)}" for k, v in texts)])


@dataclass(frozen=True)
class Tiles:
    """The few figures that matter most: (value, what it is, detail)."""

    tag: ClassVar[str] = "tiles"
    tiles: Sequence[tuple[str, str, str]]

    def markdown(self) -> str:
        """A list of the figures."""
        return "\n".join(f"- **{cell_of(v)}** {cell_of(what)} ({cell_of(detail)})" for v, what, detail in self.tiles)


@dataclass(frozen=True)
class Folded:
    """Blocks that are closed at first on the page."""

    tag: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Para | Case]

    def markdown(self) -> str:
        """The blocks; Markdown does not fold."""
        return "\n\n".join(b.markdown() for b in self.blocks)


Block = Folded | Para | Bullets | Table | Figures | Code | Case | Tiles


@dataclass(frozen=True)
class Section:
    """A titled sequence of blocks; `folded` ones are closed at first on the page."""

    title: str
    blocks: Sequence[Block] = field(default=())
    folded: bool = False

    def markdown(self, level: int = 2) -> str:
        """The heading and all blocks."""
        return "\n\n".join([f"{'#' * level} {cell_of(self.title)}", *(b.markdown() for b in self.blocks)])

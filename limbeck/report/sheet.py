"""Drawings on one sheet: a file of its own, for a slide or a paper."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from limbeck.report.blocks import Plot

__all__ = ["sheet"]

GAP, LETTER = 28, 12.5  # around each drawing; the width of a letter of the heading
NAMESPACE = "http://www.w3.org/2000/svg"
FONT = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


def sheet(heading: str, plots: Sequence[Plot]) -> str:
    """Put drawings beside each other, under a heading, in the page's light colours.

    Every element carries its own style, because slides and drawing programs do not read style sheets.

    Args:
        heading: a sentence.
        plots: the drawings, at least one.

    Returns:
        SVG, as the text of a file.
    """
    columns = min(len(plots), math.ceil(math.sqrt(1.6 * len(plots))))
    drawings = [ElementTree.fromstring(plot.svg) for plot in plots]
    sizes = [tuple(map(float, d.attrib["viewBox"].split()[2:])) for d in drawings]
    width = GAP + columns * (max(w for w, _ in sizes) + GAP)
    lines = textwrap.wrap(heading, int((width - 2 * GAP) / LETTER))
    root = ElementTree.Element("svg", {"xmlns": NAMESPACE, "font-family": FONT, "role": "img", "aria-label": heading})
    colours, rules = _style()
    ElementTree.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": colours["page"]})
    for i, line in enumerate(lines):
        _text(root, line, GAP, 38 + 26 * i, 20, colours["ink"])
    top = 38.0 + 26 * len(lines)
    for start in range(0, len(plots), columns):
        row = list(zip(plots, drawings, sizes, strict=True))[start : start + columns]
        for k, (plot, drawing, (w, h)) in enumerate(row):
            left = GAP + k * (w + GAP)
            _text(root, plot.title, left + 20, top + 14, 14, colours["ink"])
            drawing.attrib.update(x=f"{left:g}", y=f"{top + 20:g}", width=f"{w:g}", height=f"{h:g}")
            root.append(_dressed(drawing, rules))
        top += 20 + GAP + max(h for _, _, (_, h) in row)
    root.attrib.update(viewBox=f"0 0 {width:g} {top:g}", width=f"{width:g}", height=f"{top:g}")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _text(root: ElementTree.Element, text: str, x: float, y: float, size: int, colour: str) -> None:
    style = f"font-size: {size}px; font-weight: 600; fill: {colour}"
    ElementTree.SubElement(root, "text", {"x": f"{x:g}", "y": f"{y:g}", "style": style}).text = text


def _style() -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """The page's light colours, and its rules for drawings: element, class and declarations, the weightiest last."""
    css = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w+)", css.split("}", 1)[0]))
    css = re.sub(r"var\(--(\w+)\)", lambda m: colours[m[1]], css)
    rules = re.findall(r"svg (\w*)\.?(\w*) \{ ([^}]*?);? \}", css)
    return colours, sorted(rules, key=lambda rule: (bool(rule[1]), bool(rule[0])))


def _dressed(drawing: ElementTree.Element, rules: Sequence[tuple[str, str, str]]) -> ElementTree.Element:
    """The drawing with every element's style written on it."""
    for element in drawing.iter():
        classes = element.attrib.pop("class", "").split()
        said = [d for tag, name, d in rules if tag in ("", element.tag) and (not name or name in classes)]
        if said:
            element.set("style", "; ".join(said))
    return drawing

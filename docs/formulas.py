"""Formulas of docstrings as inline SVG: they need no script and no network, and take the colour of the text."""

import re
from html import escape

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextToPath

UNITS = 100.0  # of the drawing, per em
MARGIN = 6.0
MOVE, LINE, CURVE3, CURVE4, CLOSE = (
    int(code) for code in (Outline.MOVETO, Outline.LINETO, Outline.CURVE3, Outline.CURVE4, Outline.CLOSEPOLY)
)
COMMANDS = {MOVE: "M", LINE: "L", CURVE3: "Q", CURVE4: "C", CLOSE: "Z"}
# What matplotlib's TeX dialect spells otherwise.
REWRITES = (
    (re.compile(r"\\[bB]igg?[lr]?\s*([(\[])"), r"\\left\1"),
    (re.compile(r"\\[bB]igg?[lr]?\s*([)\]])"), r"\\right\1"),
    (re.compile(r"\\[bB]igg?[lr]?\s*([/|])"), r"\1"),
    (re.compile(r"\\[td]?frac\s*(\w)\s*(\w)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\[td]frac"), r"\\frac"),
    (re.compile(r"\\[lr]Vert"), r"\\Vert "),
    (re.compile(r"\\[lr]vert"), r"\\vert "),
    (re.compile(r"\\mathbb\s*1"), r"\\mathbb{1}"),
    (re.compile(r"(?<=[\w)}\]])\s*\\(log|min|max|exp|cos)\b"), r"\\,\\\1"),  # matplotlib sets no space before operators
)
BREAK = re.compile(r"\\qquad\s*")


def block(latex: str) -> str:
    """A displayed formula: one line for every part that `\\qquad` sets apart. Raises `ValueError` naming bad TeX."""
    lines = [line.strip() for line in BREAK.split(" ".join(latex.split())) if line.strip()]
    drawn = "\n".join(f"<div>{_drawn(line)}</div>" for line in lines)
    return f'<div class="formula">\n{drawn}\n</div>'


def _drawn(latex: str) -> str:
    """One line as an `<svg>` whose height is in em of the surrounding text."""
    for pattern, replacement in REWRITES:
        latex = pattern.sub(replacement, latex)
    with matplotlib.rc_context({"mathtext.fontset": "stix"}):
        try:
            vertices, codes = TextToPath().get_text_path(FontProperties(size=UNITS), f"${latex}$", ismath=True)
        except ValueError as error:
            raise ValueError(f"cannot draw the formula {latex}: {str(error).strip().splitlines()[-1]}") from error
    points = [(x, -y) for x, y in vertices]
    inked = [point for point, code in zip(points, codes, strict=True) if code != CLOSE]
    left, top = (min(values) - MARGIN for values in zip(*inked, strict=True))
    right, bottom = (max(values) + MARGIN for values in zip(*inked, strict=True))
    width, height = right - left, bottom - top
    box = f"{left:.0f} {top:.0f} {width:.0f} {height:.0f}"
    style = f"width: {width / UNITS:.2f}em; height: {height / UNITS:.2f}em"
    return (
        f'<svg role="img" aria-label="{escape(latex)}" viewBox="{box}" style="{style}">'
        f'<path d="{_commands(points, codes)}"/></svg>'
    )


def _commands(points: list[tuple[float, float]], codes: list[int]) -> str:
    """The outline as SVG path commands; a curve's points follow its first letter."""
    found: list[str] = []
    previous, pending = None, 0
    for (x, y), code in zip(points, codes, strict=True):
        if code == CLOSE:
            found.append("Z")
            pending = 0
            continue
        if pending == 0 or code != previous:
            found.append(COMMANDS[code])
            pending = {CURVE3: 2, CURVE4: 3}.get(code, 1)
        found.append(f"{x:.1f} {y:.1f}")
        previous, pending = code, pending - 1
    return " ".join(found)

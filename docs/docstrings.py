"""Docstrings of parts (plain text, backticks, `.. math::`, lists of hyper-parameters) as Markdown."""

import inspect
import re

from formulas import block

_MATH = re.compile(r"^\.\. math::[ \t]*(.*(?:\n(?:[ \t]+.*)?)*)", re.MULTILINE)
_ITEM = re.compile(r'^("?[a-z]\w*"?(?:, "?\w+"?)*): +(.*)', re.DOTALL)
_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_RULE = re.compile(r"=+( +=+)+")
_EMPHASIS = re.compile(r"(?<![\w*])\*(\w[^*\n]*\w)\*(?![\w*])")


def markdown(docstring: str | None) -> str:
    """The whole docstring."""
    text = inspect.cleandoc(docstring or "")
    pieces: list[str] = []
    position = 0
    for match in _MATH.finditer(text):
        pieces += [_paragraphs(text[position : match.start()]), block(match.group(1))]
        position = match.end()
    pieces.append(_paragraphs(text[position:]))
    return "\n\n".join(piece for piece in pieces if piece)


def summary(docstring: str | None) -> str:
    """The first paragraph and, where it follows at once, the formula."""
    text = inspect.cleandoc(docstring or "")
    first, _, rest = text.partition("\n\n")
    match = _MATH.match(rest)
    return markdown(f"{first}\n\n{match.group(0)}" if match else first)


def first_line(docstring: str | None) -> str:
    """The first line, for tables."""
    return _inline(inspect.cleandoc(docstring or "").partition("\n")[0]).replace("|", "\\|")


def _paragraphs(text: str) -> str:
    return "\n\n".join(_paragraph(piece) for piece in re.split(r"\n\s*\n", text.strip()) if piece.strip())


def _paragraph(text: str) -> str:
    """A paragraph; a list where every unindented line begins with `name: `; or a table between lines of `===`."""
    if _RULE.fullmatch(text.partition("\n")[0]):
        return _table(text.splitlines())
    items: list[str] = []
    for line in text.splitlines():
        if line.startswith((" ", "\t")) and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line)
    entries = [_ITEM.match(item) for item in items]
    if not all(entries):
        return _inline(" ".join(text.split()))
    return "\n".join(f"- `{entry.group(1)}`: {_inline(' '.join(entry.group(2).split()))}" for entry in entries if entry)


def _table(lines: list[str]) -> str:
    """A table whose columns begin where the runs of `=` in its first line do."""
    starts = [match.start() for match in re.finditer("=+", lines[0])]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    rows = [[_inline(line[a:b].strip()).replace("|", "\\|") for a, b in spans] for line in lines if line[0] != "="]
    rows.insert(1, ["---"] * len(starts))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _inline(text: str) -> str:
    """Code spans stay as they are; in between, only `*word*` keeps a meaning."""
    pieces = _CODE.split(text)
    return "".join(f"`{piece.strip('`')}`" if index % 2 else plain(piece) for index, piece in enumerate(pieces))


def plain(piece: str) -> str:
    """Text without code spans, with what Markdown would take for markup escaped."""
    return re.sub(r"([*_])", r"\\\1", _EMPHASIS.sub(r"<em>\1</em>", piece.replace("<", "&lt;")))

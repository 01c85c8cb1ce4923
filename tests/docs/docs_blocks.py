"""Fenced blocks of the documentation, and a programme that does what a page says: `python docs_blocks.py PAGE`.

A block with a `title` is a file of that name. Other Python blocks are run in order, each in a namespace of its own.
Lines of shell blocks that begin with `unirl` are checked without training. A comment `<!-- run -->` before a block has
them carried out, `<!-- example only -->` leaves the block alone.
"""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>run|example only) -->\n)?"
    r'```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: `mark` is `run`, `example only` or None."""

    language: str
    code: str
    title: str | None
    mark: str | None


def blocks(text: str) -> list[Block]:
    """All fenced blocks with a language, in order."""
    found = _BLOCK.finditer(text)
    return [Block(match["language"], match["code"], match["title"], match["mark"]) for match in found]


def commands(block: Block) -> Iterator[list[str]]:
    """The arguments of the `unirl` lines of a shell block."""
    for line in block.code.replace("\\\n", " ").splitlines() if block.language == "sh" else ():
        words = shlex.split(line, comments=True)
        if words and words[0] == "unirl":
            yield words[1:]


def check_command(arguments: list[str]) -> None:
    """Raise if the command line would refuse its arguments; train nothing."""
    from unirl import cli
    from unirl.commands.parser import Parser
    from unirl.compare.plan import make_plan
    from unirl.config import compose

    name, rest = arguments[0], arguments[1:]
    if name == "collect":
        _check_collect(rest)
        return
    module = importlib.import_module(cli.COMMANDS[name][0])
    parser = Parser(name, "", "")
    module.add_arguments(parser)
    given = parser.read(rest)
    if name == "train":
        compose(given.overrides)
    elif name == "compare":
        make_plan(given.overrides)


def _check_collect(arguments: list[str]) -> None:
    from unirl.config import compose
    from unirl.control.data.command import OWN

    compose(["domain=control", *(text for text in arguments if text.partition("=")[0] not in OWN)])


def follow(page: Path) -> None:
    """Do what the page says, in the current folder."""
    from unirl import cli

    sys.path.insert(0, str(Path.cwd()))
    found = [block for block in blocks(page.read_text()) if block.mark != "example only"]
    for block in found:
        if block.title is not None:
            path = Path(block.title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)
    for number, block in enumerate(found):
        if block.title is None and block.language == "python":
            script = Path(f"block_{number}.py")
            script.write_text(block.code)
            run_path(str(script))
        for arguments in commands(block):
            check_command(arguments)
            if block.mark == "run" and cli.main(arguments) != 0:
                raise RuntimeError(f"unirl {shlex.join(arguments)} failed")
    for test in sorted(Path().glob("test_*.py")):
        for name, function in run_path(str(test)).items():
            if name.startswith("test_"):
                function()


if __name__ == "__main__":
    follow(Path(sys.argv[1]))

"""Argument parsing with errors in one line and near matches for misspelt options."""

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NoReturn

from unirl.errors import UserError, unknown


class Parser(argparse.ArgumentParser):
    """A parser of one command. Options may stand anywhere between `key=value` arguments."""

    def __init__(self, name: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"unirl {name}",
            description=description,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--debug", action="store_true", help="show tracebacks of errors")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UserError(f"{message}  see: {self.prog} --help")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; raises `UserError` for anything unknown."""
        found, extra = self.parse_known_intermixed_args(list(arguments))
        for text in extra:
            if text.startswith("-"):
                options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
                raise unknown("option", text.partition("=")[0], options, see=f"{self.prog} --help")
            raise UserError(f"unexpected argument '{text}'  see: {self.prog} --help")
        return found


def add_overrides(parser: argparse.ArgumentParser, what: str) -> None:
    """The free `key=value` arguments."""
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=what)


def check_overrides(overrides: Sequence[str], groups: Callable[[], dict[str, list[str]]]) -> None:
    """Raise for an argument without `=`, with the key that it may have been meant for."""
    for text in overrides:
        if "=" in text:
            continue
        known = groups()
        for group, names in known.items():
            if text in names:
                raise UserError(f"'{text}' is not key=value; did you mean {group}={text}?")
        close = [f"{group}={name}" for group, names in known.items() for name in get_close_matches(text, names, 1, 0.7)]
        hint = f"did you mean {' or '.join(close)}?" if close else "for example method=ppo or seed=3"
        raise UserError(f"'{text}' is not key=value; {hint}")

"""Errors that a user can cause: one line that says what is wrong and what would be right."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

LISTED = 30  # names that an error lists where none is near


class UserError(Exception):
    """Something a user typed or supplied is wrong; the command line prints it as one line and exits with code 2.

    Line breaks, which another package's message may bring along, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class RunWarning(UserWarning):
    """Something a user should know while the work goes on; the command line prints it as one line."""


class NonFiniteError(ArithmeticError):
    """A loss or the gradient of the `names` stepped together is NaN or infinite; nothing has been stepped."""

    def __init__(self, names: tuple[str, ...], losses: Mapping[str, float], gradient_norm: float) -> None:
        self.names, self.losses, self.gradient_norm = names, dict(losses), gradient_norm
        super().__init__(f"losses {self.losses}, gradient norm {gradient_norm}")


def unknown(what: str, given: str, known: Iterable[str], see: str = "") -> UserError:
    """Build the error for a name that is not among the known ones, with near matches."""
    choices = sorted(known)
    near = get_close_matches(given, choices, n=3, cutoff=0.5)
    listed = ", ".join(choices[:LISTED]) + (f" and {len(choices) - LISTED} more" if len(choices) > LISTED else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {listed or 'none'}"
    return UserError(f"unknown {what} '{given}' ({hint})" + (f"  see: {see}" if see else ""))

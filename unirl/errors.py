"""Errors that a user can cause: one line that says what is wrong and what would be right."""

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 30  # names that an error lists where none is near


class UserError(Exception):
    """Something a user typed or supplied is wrong; the command line prints it as one line and exits with code 2."""


def unknown(what: str, given: str, known: Iterable[str], see: str = "") -> UserError:
    """Build the error for a name that is not among the known ones, with near matches."""
    choices = sorted(known)
    near = get_close_matches(given, choices, n=3, cutoff=0.5)
    listed = ", ".join(choices[:LISTED]) + (f" and {len(choices) - LISTED} more" if len(choices) > LISTED else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {listed or 'none'}"
    return UserError(f"unknown {what} '{given}' ({hint})" + (f"  see: {see}" if see else ""))

"""Values that users type, beside the types that a signature or a dataclass declares for them."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from unirl.errors import UserError

_IN_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    Mapping: "names and values",
    NoneType: "null",
}


def as_declared(value: Any, hint: Any, what: str) -> Any:
    """The value, 2.0 as 2 where a whole number is declared; raises `UserError` where it is of another type.

    `hint`: bool, int, float, str, a mapping, null or a union of these; anything else is not looked at.
    """
    kinds = [get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
    if not all(kind in _IN_WORDS for kind in kinds):
        return value
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    if not any(is_a(value, kind) for kind in kinds):
        raise UserError(f"{what} is {value!r}; it must be {' or '.join(_IN_WORDS[kind] for kind in kinds)}")
    return value


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; a whole number is a number too, true and false are none."""
    if isinstance(value, bool):  # Python counts it as a number
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)

"""Plain values as lines of JSON, for two processes that do not trust each other.

What `decode` gives is built of exact built-in types, and of what `Objects` makes of references: never of a class
that the other side chose, so that no foreign `__eq__`, `__hash__` or `__bool__` can be met.
"""

import json
import os
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST = 4 << 20  # bytes of one message
END = "the end"

Refer = Callable[[Any], str | int]
Resolve = Callable[[Any], Any]


class WireError(Exception):
    """The other side is gone, or says what cannot be understood."""


def encode(value: Any, refer: Refer) -> Any:
    """`value` as JSON; what is not plain becomes what `refer` calls it. Subclasses become the built-in class."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        return {"int": format(int(value), "x")}  # base 16 takes linear time
    if isinstance(value, float):
        return {"float": float(value).hex()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, Decimal | Fraction):
        return {"Decimal" if isinstance(value, Decimal) else "Fraction": str(value)}
    for name, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return {name: [encode(item, refer) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, refer), encode(item, refer)] for key, item in value.items()]}
    return {"object": refer(value)}


def decode(value: Any, resolve: Resolve) -> Any:
    """The value that `encode` wrote; raises `WireError` for anything else."""
    if value is None or value is True or value is False or type(value) is str:
        return value
    if type(value) is not dict or len(value) != 1:
        raise WireError("not a value")
    ((name, content),) = value.items()
    try:
        if name in _CONTAINERS:
            return _CONTAINERS[name](decode(item, resolve) for item in content)
        if name == "dict":
            return {decode(key, resolve): decode(item, resolve) for key, item in content}
        if name == "object":
            return resolve(content)
        return _SCALARS[name](content)
    except (KeyError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise WireError(f"not a value: {type(error).__name__}") from None


def send(file: int, message: Any) -> None:
    """Write one message."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(file, data) :]


class Reader:
    """Messages from a file descriptor."""

    def __init__(self, file: int) -> None:
        self._file, self._data = file, b""

    def __call__(self) -> Any:
        """The next message; raises `WireError` at the end of the file and for what is too long or no JSON."""
        parts, size = [self._data], len(self._data)
        while b"\n" not in parts[-1]:
            part = os.read(self._file, 1 << 16)
            size += len(part)
            if not part or size > LONGEST:
                raise WireError(f"more than {LONGEST >> 20} MB" if part else END)
            parts.append(part)
        line, _, self._data = b"".join(parts).partition(b"\n")
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise WireError("not JSON") from None


def _hexadecimal(text: str) -> int:
    return int(text, 16)


def _complex(parts: list[str]) -> complex:
    real, imaginary = parts
    return complex(float.fromhex(real), float.fromhex(imaginary))


_CONTAINERS: dict[str, type[Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "int": _hexadecimal,
    "float": float.fromhex,
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": _complex,
    "Decimal": Decimal,
    "Fraction": Fraction,
}

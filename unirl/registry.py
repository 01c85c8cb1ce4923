"""The one table of parts: `register` puts a class in it, `make` builds one, `names` lists them."""

import functools
import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

from unirl.batch import MissingFieldError
from unirl.errors import UserError, unknown
from unirl.values import as_declared

T = TypeVar("T", bound=type)

_PARTS: dict[str, dict[str, type]] = {}
# Numbers that mean the same in every part of their kind: (kind, name) -> whether a value makes sense, and which do.
RANGES: dict[tuple[str, str], tuple[Callable[[float], bool], str]] = {
    ("critic", "heads"): (lambda value: value >= 1, "at least 1"),
    ("critic", "tau"): (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    ("critic", "gamma"): (lambda value: 0 <= value <= 1, "0 to 1"),
    ("advantage", "gamma"): (lambda value: 0 <= value <= 1, "0 to 1"),
    ("advantage", "lam"): (lambda value: 0 <= value <= 1, "0 to 1"),
    ("objective", "gamma"): (lambda value: 0 <= value <= 1, "0 to 1"),
    ("objective", "clip_low"): (lambda value: value >= 0, "0 or more"),
    ("objective", "clip_high"): (lambda value: value >= 0, "0 or more"),
}
_METHODS_THAT_READ_A_BATCH = ("__call__", "target", "loss")


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator: `@register("objective", "ppo_clip")`. A name may be registered once per kind."""

    def put(cls: T) -> T:
        taken = _PARTS.setdefault(kind, {}).get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise ValueError(f"{kind} '{name}' is already {taken.__module__}.{taken.__qualname__}")
        for method in _METHODS_THAT_READ_A_BATCH:
            function = getattr(cls, method, None)
            if inspect.isfunction(function):
                own = getattr(function, "_without_name", function)  # an inherited wrapper would name the parent
                setattr(cls, method, _naming_the_reader(own, f"{kind} '{name}'"))
        _PARTS[kind][name] = cls
        cls.registered_name = name  # type: ignore[attr-defined]
        cls.registered_kind = kind  # type: ignore[attr-defined]
        return cls

    return put


def make(kind: str, name: str, **hyper: Any) -> Any:
    """Build the part `name` of `kind` with the given hyper-parameters.

    Raises `UserError` with near matches for an unknown kind, name or hyper-parameter, and for values it refuses.
    """
    cls = part_class(kind, name)
    known = inspect.signature(cls).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for key in hyper:
        if key not in known and not takes_any:
            raise unknown(f"hyper-parameter of {kind} '{name}'", key, known, see=f"unirl parts {kind}")
        if key in known:
            hyper[key] = _sensible(kind, name, key, hyper[key], known[key].annotation)
    try:
        return cls(**hyper)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind} '{name}': {error}") from error


def _sensible(kind: str, name: str, key: str, value: Any, annotation: Any) -> Any:
    """The hyper-parameter as it is annotated; raises `UserError` for another type and for what makes no sense."""
    value = as_declared(value, annotation, f"{kind} '{name}': {key}")
    makes_sense, which = RANGES.get((kind, key), (None, ""))
    if makes_sense is not None and isinstance(value, int | float) and not makes_sense(value):
        raise UserError(f"{kind} '{name}': {key} is {value!r}; it must be {which}")
    return value


def part_class(kind: str, name: str) -> type:
    """The class registered as `name` of `kind`; raises `UserError` with near matches."""
    if name not in _PARTS.get(kind, {}):
        importlib.import_module("unirl.parts")
    if name not in _PARTS.get(kind, {}):  # only then pay for the import of the domains
        _load_all()
    if kind not in _PARTS:
        raise unknown("kind of part", kind, _PARTS, see="unirl parts")
    if name not in _PARTS[kind]:
        raise unknown(kind, name, _PARTS[kind], see=f"unirl parts {kind}")
    return _PARTS[kind][name]


def names(kind: str) -> dict[str, str]:
    """Every registered name of a kind with the first line of its documentation."""
    _load_all()
    if kind not in _PARTS:
        raise unknown("kind of part", kind, _PARTS, see="unirl parts")
    return {name: _first_line(cls) for name, cls in sorted(_PARTS[kind].items())}


def kinds() -> list[str]:
    """Every kind of part that has at least one name."""
    _load_all()
    return sorted(_PARTS)


@functools.cache
def _load_all() -> None:
    """Import the core's parts and every package that announces parts as an entry point `unirl.parts`."""
    importlib.import_module("unirl.parts")
    for entry in entry_points(group="unirl.parts"):
        try:
            entry.load()
        except ModuleNotFoundError as error:  # an extra that is not installed brings no parts
            if error.name is not None and error.name.startswith("unirl"):
                raise


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _naming_the_reader(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    """Let a missing field's error say which part asked for it."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except MissingFieldError as error:
            raise error.wanted_by(part) from None

    call._without_name = function  # type: ignore[attr-defined]
    return call

"""Sections of a task: that they hold names and values, and values of the types that their readers declare."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from unirl.errors import UserError, unknown

T = TypeVar("T")

EXAMPLES = {
    "env_kwargs": "{max_episode_steps: 1000}",
    "perturb": "{gravity: 2.0}",
    "simulator": "{perturb: {gravity: 2.0}}",
    "data_options": "{normalize_observation: true}",
    "demonstrations": "{episodes: 20}",
    "preferences": "{segments: 512}",
    "reference_score": "{random: 0.0, expert: 3000.0}",
}
_IN_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    Mapping: "names and values",
    NoneType: "null",
}


def section(given: Mapping[str, Any], key: str, place: str = "task") -> Mapping[str, Any]:
    """What `given[key]` holds, nothing where it is null; raises `UserError` where it is no mapping."""
    value = given.get(key)
    if value is not None and not isinstance(value, Mapping):
        example = f"'{place}.{key}={EXAMPLES[key]}'"
        raise UserError(f"{place}.{key} is {value!r}; it must be names and values, for example {example}")
    return value or {}


def check_sections(task: Mapping[str, Any]) -> None:
    """Raise `UserError` for the first section of a control task that is no mapping, whoever reads it and when."""
    for key in EXAMPLES:
        section(task, key)


def checked(cls: type[T], given: Mapping[str, Any], place: str) -> T:
    """The dataclass `cls` from a section called `place`, with 2.0 as 2 where a whole number is declared.

    Raises `UserError` for a name that it lacks (with near matches) and a value of another type than it declares.
    """
    hints, values = get_type_hints(cls), dict(given)
    for name, value in given.items():
        if name not in hints:
            raise unknown(f"key of {place}", str(name), hints)
        kinds = _kinds(hints[name])
        if int in kinds and isinstance(value, float) and value.is_integer():
            value = values[name] = int(value)
        if not any(_is_a(value, kind) for kind in kinds):
            words = " or ".join(_IN_WORDS[kind] for kind in kinds)
            raise UserError(f"{place}.{name} is {value!r}; it must be {words}")
    return cls(**values)


def reference_score(task: Mapping[str, Any]) -> tuple[float, float] | None:
    """The scores of a random policy and of an expert that the task itself gives (`reference_score`), if it does.

    Raises `UserError` where they are not two different numbers.
    """
    given = section(task, "reference_score")
    if not given:
        return None
    scores = [given.get("random"), given.get("expert")]
    if len(given) != 2 or not all(_is_a(score, float) for score in scores) or scores[0] == scores[1]:
        raise UserError(
            f"task.reference_score is {dict(given)}; it must be two different numbers, for example "
            f"'task.reference_score={EXAMPLES['reference_score']}'"
        )
    return float(given["random"]), float(given["expert"])


def _kinds(hint: Any) -> list[Any]:
    """The types that an annotation allows, `Mapping[str, Any]` as `Mapping`."""
    return [get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):  # Python counts it as a number
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)

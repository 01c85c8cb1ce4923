"""Sections of a task: that they hold names and values, and values of the types that their readers declare."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from unirl.errors import UserError, unknown
from unirl.values import as_declared, is_a

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
        values[name] = as_declared(value, hints[name], f"{place}.{name}")
    return cls(**values)


def reference_score(task: Mapping[str, Any]) -> tuple[float, float] | None:
    """The scores of a random policy and of an expert that the task itself gives (`reference_score`), if it does.

    Raises `UserError` where they are not two different numbers.
    """
    given = section(task, "reference_score")
    if not given:
        return None
    scores = [given.get("random"), given.get("expert")]
    if len(given) != 2 or not all(is_a(score, float) for score in scores) or scores[0] == scores[1]:
        raise UserError(
            f"task.reference_score is {dict(given)}; it must be two different numbers, for example "
            f"'task.reference_score={EXAMPLES['reference_score']}'"
        )
    return float(given["random"]), float(given["expert"])

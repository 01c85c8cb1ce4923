"""Which part classes a method names and in which files they are: the proof that two domains share them."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirl.errors import UserError
from unirl.registry import part_class

SLOTS = {  # key of a method's configuration -> kind of part
    "source": "source",
    "rewards": "reward",
    "advantage": "advantage",
    "selection": "selection",
    "critic": "critic",
    "objective": "objective",
    "regularizers": "regularizer",
    "reduce": "reduce",
}
DEFAULTS = {"source": "online", "reduce": "token_mean"}  # where a method does not say


@dataclass(frozen=True)
class UsedPart:
    """A part as a method names it: `settings` are the hyper-parameters that the configuration gives."""

    kind: str
    name: str
    class_name: str
    file: str
    settings: Mapping[str, Any]

    @property
    def settings_texts(self) -> tuple[str, ...]:
        """`clip_low=0.2` and so on, or `defaults`."""
        return tuple(f"{key}={_plain(value)}" for key, value in self.settings.items()) or ("defaults",)


def used_parts(method: Mapping[str, Any]) -> list[UsedPart]:
    """The parts of a method's (resolved) configuration, in the order in which a batch meets them.

    A part that is no longer registered (an old run folder) has an empty class and file.
    """
    found = []
    for slot, kind in SLOTS.items():
        for name, settings in part_entries(method.get(slot) or DEFAULTS.get(slot)):
            found.append(_used(kind, name, {k: v for k, v in settings.items() if k != "coef"}))
            if slot == "regularizers":
                found.append(_coefficient(settings.get("coef", 1.0)))
    for name, settings in part_entries((method.get("update") or {}).get("gradient")):
        found.append(_used("gradient", name, settings))
    return found


def part_entries(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, hyper-parameters) of what one key of a method holds: a part or several, as names or mappings."""
    for entry in value if isinstance(value, list | tuple) else [value] if value is not None else []:
        if isinstance(entry, Mapping):
            yield str(entry["name"]), {key: item for key, item in entry.items() if key != "name"}
        else:
            yield str(entry), {}


def _coefficient(strength: Any) -> UsedPart:
    if isinstance(strength, int | float):
        return _used("coefficient", "fixed", {"value": strength})
    ((name, settings),) = part_entries(strength)
    return _used("coefficient", name, settings)


def _used(kind: str, name: str, settings: Mapping[str, Any]) -> UsedPart:
    try:
        cls = part_class(kind, name)
    except UserError:
        return UsedPart(kind, name, "", "", settings)
    return UsedPart(kind, name, cls.__name__, source_file(cls), settings)


def source_file(cls: type) -> str:
    """The file of a class relative to the folder that holds its package: `unirl/objectives/ppo.py`."""
    path = Path(inspect.getfile(cls))
    package_depth = cls.__module__.count(".") + 1
    parts = path.with_suffix("").parts
    return "/".join(parts[-package_depth:]) + path.suffix


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)

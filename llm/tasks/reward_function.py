"""A user's own reward function, in TRL's convention."""

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unirl.errors import UserError, unknown


@dataclass(frozen=True)
class RewardFunction:
    """`f(prompts, completions, **columns) -> list[float | None]`, found by `module:function` or `file.py:function`.

    `columns` are the data's other columns, one list each, and `completion_ids`; a function that does not take
    `**kwargs` gets those it names. None means that the function does not score this row: it adds nothing.
    """

    spec: str
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.spec.rpartition(":")[2]

    def __call__(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[float]:
        """One number per row; raises `UserError` naming the function if it fails or returns anything else."""
        try:
            values = self.function(**self._accepted(columns))
        except Exception as error:
            raise UserError(f"reward function '{self.spec}' raised {type(error).__name__}: {error}") from error
        try:
            values = list(values)
        except TypeError as error:
            raise UserError(f"reward function '{self.spec}' returned {values!r}, not a list of numbers") from error
        if len(values) != rows:
            raise UserError(f"reward function '{self.spec}' returned {len(values)} numbers for {rows} completions")
        return [0.0 if value is None else self._number(value, row) for row, value in enumerate(values)]

    def _accepted(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        parameters = inspect.signature(self.function).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return dict(columns)
        return {name: values for name, values in columns.items() if name in parameters}

    def _number(self, value: Any, row: int) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"reward function '{self.spec}' returned {value!r} for row {row}, not a number") from error
        if not math.isfinite(number):
            raise UserError(f"reward function '{self.spec}' returned {number} for row {row}; rewards must be finite")
        return number


def load_reward_function(spec: str) -> RewardFunction:
    """The function that `spec` names; raises `UserError` if there is none."""
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UserError(f"task.reward is '{spec}'; it should be module:function or file.py:function")
    module = _from_file(Path(place), spec) if place.endswith(".py") else _from_module(place, spec)
    function = getattr(module, name, None)
    if function is None:
        raise unknown(f"function in {place}", name, [n for n, value in vars(module).items() if callable(value)])
    if not callable(function):
        raise UserError(f"task.reward: '{spec}' is a {type(function).__name__}, not a function")
    return RewardFunction(spec, function)


def _from_module(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise UserError(f"task.reward: cannot import '{name}' for '{spec}': {error}") from error


def _from_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise UserError(f"task.reward: there is no file '{path}' (from '{spec}')")
    found = importlib.util.spec_from_file_location(f"unirl_reward_{path.stem}", path)
    if found is None or found.loader is None:
        raise UserError(f"task.reward: '{path}' is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses and pickling look their module up there
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"task.reward: '{path}' raised {type(error).__name__}: {error}") from error
    return module

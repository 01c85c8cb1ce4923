"""A user's own reward function, in TRL's convention."""

import asyncio
import importlib
import importlib.util
import inspect
import math
import queue
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unirl.errors import RunWarning, UserError, unknown

ON_FAILURE = ("stop", "skip")
_SHOWN = 3  # failing rows of one call that are shown
_LONGEST = 300  # characters of a prompt or completion in a message


@dataclass(frozen=True)
class RewardFunction:
    """`f(prompts, completions, **columns) -> list[float | None]`, found by `module:function` or `file.py:function`.

    `columns` are the data's other columns, one list each, and `completion_ids`; a function that does not take
    `**kwargs` gets those it names. None means that the function does not score this row: it adds nothing. It may be
    `async`. What it returns must be as long as `completions`.

    timeout: seconds for one call (None: no limit). A function with a limit runs in a thread of its own, which cannot be
        ended: after a time-out it is left behind.
    on_failure: what happens to rows for which the function gives no finite number. Where it raises, it is called again
        for one row after the other, to find out for which. `stop`: a `UserError` shows the first of these rows. `skip`:
        their value is NaN, for the caller to count and replace, and a `RunWarning` shows them. A wrong length, a
        time-out and a function that fails for every row always stop.
    """

    spec: str
    function: Callable[..., Any]
    timeout: float | None = None
    on_failure: str = "stop"

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise UserError(f"task.reward: the timeout of '{self.spec}' is {self.timeout}; it must be positive")
        if self.on_failure not in ON_FAILURE:
            raise unknown("on_failure of task.reward", str(self.on_failure), ON_FAILURE)

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.spec.rpartition(":")[2]

    def __call__(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[float]:
        """One number per row; raises `UserError` naming the function and the row that it fails for."""
        try:
            outcomes = self._outcomes(columns, rows)
        except _FailedError as error:
            outcomes = [error] if rows == 1 else self._alone(columns, rows, error)
        failures = [(row, outcome) for row, outcome in enumerate(outcomes) if isinstance(outcome, _FailedError)]
        if failures and (self.on_failure == "stop" or len(failures) == rows):
            row, first = failures[0]
            raise UserError(f"{first}{_sample(columns, row)}") from first.__cause__
        for row, failure in failures[:_SHOWN]:
            warnings.warn(RunWarning(f"{failure}{_sample(columns, row)}"), stacklevel=2)
        if len(failures) > _SHOWN:
            message = f"reward function '{self.spec}' failed for {len(failures)} of {rows} rows"
            warnings.warn(RunWarning(message), stacklevel=2)
        return [math.nan if isinstance(outcome, _FailedError) else outcome for outcome in outcomes]

    def _alone(
        self, columns: Mapping[str, Sequence[Any]], rows: int, together: "_FailedError"
    ) -> list["float | _FailedError"]:
        """What the function gives for each row when that is its only one; raises where it fails for none of them."""
        outcomes: list[float | _FailedError] = []
        for row in range(rows):
            try:
                outcomes += self._outcomes({name: values[row : row + 1] for name, values in columns.items()}, 1)
            except _FailedError as failure:
                outcomes.append(failure)
        if not any(isinstance(outcome, _FailedError) for outcome in outcomes):
            raise UserError(f"{together}, but not for any of the rows alone") from together.__cause__
        return outcomes

    def _outcomes(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list["float | _FailedError"]:
        accepted = self._accepted(columns)
        try:
            values = self._called(accepted)
        except _TooLongError as error:
            raise UserError(f"reward function '{self.spec}' took more than {self.timeout} seconds") from error
        except Exception as error:
            raise _FailedError(f"reward function '{self.spec}' raised {type(error).__name__}: {error}") from error
        try:
            values = list(values)
        except TypeError as error:
            raise UserError(f"reward function '{self.spec}' returned {values!r}, not a list of numbers") from error
        if len(values) != rows:
            raise UserError(f"reward function '{self.spec}' returned {len(values)} numbers for {rows} completions")
        return [0.0 if value is None else self._number(value, row) for row, value in enumerate(values)]

    def _called(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        """What the function returns, awaited where that is needed."""

        def call() -> Any:
            values = self.function(**columns)
            if not inspect.isawaitable(values):
                return values
            return asyncio.run(_awaited(values))

        if self.timeout is None and not _loop_is_running():
            return call()
        return _in_a_thread(call, self.timeout)

    def _accepted(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        parameters = inspect.signature(self.function).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return dict(columns)
        return {name: values for name, values in columns.items() if name in parameters}

    def _number(self, value: Any, row: int) -> "float | _FailedError":
        try:
            number = float(value)
        except (TypeError, ValueError):
            return _FailedError(f"reward function '{self.spec}' returned {value!r} for row {row}, not a number")
        if not math.isfinite(number):
            return _FailedError(
                f"reward function '{self.spec}' returned {number} for row {row}; rewards must be finite"
            )
        return number


class _FailedError(Exception):
    """The function fails, perhaps for some rows only."""


class _TooLongError(Exception):
    """The function has not returned in time."""


async def _awaited(values: Awaitable[Any]) -> Any:
    return await values


def _loop_is_running() -> bool:
    """Whether this thread runs a loop of events, as notebooks do: it can run no second one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_a_thread(call: Callable[[], Any], seconds: float | None) -> Any:
    """What `call` returns or raises; raises `_TooLongError` if it takes longer, and leaves the thread behind."""
    outcome: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise _TooLongError from None
    if error is not None:
        raise error
    return value


def _sample(columns: Mapping[str, Sequence[Any]], row: int) -> str:
    """The prompt and the completion of a row, for people."""
    shown = [f"{name[:-1]} {_short(columns[name][row])}" for name in ("prompts", "completions") if name in columns]
    return f" (row {row}: {', '.join(shown)})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def load_reward_function(config: str | Mapping[str, Any]) -> RewardFunction:
    """The function that `config` names: `module:function`, `file.py:function`, or a mapping with more.

    The mapping is `{function: ..., timeout: seconds, on_failure: stop | skip}`. Raises `UserError` where there is no
    such function or option.
    """
    options = {"function": config} if isinstance(config, str) else dict(config)
    for key in options:
        if key not in ("function", "timeout", "on_failure"):
            raise unknown("option of task.reward", str(key), ("function", "timeout", "on_failure"))
    if "function" not in options:
        raise UserError("task.reward has no `function`, as in {function: my_reward.py:close, timeout: 60}")
    spec = str(options.pop("function"))
    return RewardFunction(spec, _function(spec), **options)


def _function(spec: str) -> Callable[..., Any]:
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UserError(f"task.reward is '{spec}'; it should be module:function or file.py:function")
    module = _from_file(Path(place), spec) if place.endswith(".py") else _from_module(place, spec)
    function = getattr(module, name, None)
    if function is None:
        raise unknown(f"function in {place}", name, [n for n, value in vars(module).items() if callable(value)])
    if not callable(function):
        raise UserError(f"task.reward: '{spec}' is a {type(function).__name__}, not a function")
    found: Callable[..., Any] = function
    return found


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

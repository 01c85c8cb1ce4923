"""Recorded experience as plain arrays, one row per transition, and the checks that every file has to pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unirl.errors import UserError

CHUNK = 65_536  # rows looked at together, so that memory-mapped arrays are never held in memory as a whole
_ROUNDING = 1e-4  # actions stored as float32 may exceed the range by this fraction of it

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Transitions:
    """Episodes in order, one row per transition.

    `observations`, `next_observations` [M, O] and `actions` [M, A] (in the environment's units), `rewards` [M] float32;
    `terminals` (the state is final: no bootstrap), `timeouts` (the episode was cut off) [M] bool. The last row ends the
    last episode even if neither is set.
    """

    observations: Floats
    actions: Floats
    rewards: Floats
    next_observations: Floats
    terminals: Bools
    timeouts: Bools

    def __len__(self) -> int:
        return int(self.rewards.shape[0])


def episode_bounds(terminals: Bools, timeouts: Bools) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row and length of every episode, [E] each."""
    ends = np.flatnonzero(terminals | timeouts).astype(np.int64)
    if len(terminals) and (not len(ends) or ends[-1] != len(terminals) - 1):
        ends = np.append(ends, len(terminals) - 1)
    starts = np.concatenate([np.zeros(min(len(ends), 1), dtype=np.int64), ends[:-1] + 1])
    return starts, ends - starts + 1


def chunks(count: int) -> Iterator[slice]:
    """Consecutive slices of at most `CHUNK` rows."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def as_float32(values: NDArray[Any]) -> Floats:
    """The numbers in single precision; what is too large for it becomes infinite, as `check_finite` will say."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def check_finite(values: Floats, what: str, where: str, first_row: int = 0) -> None:
    """Raise `UserError` naming the first row of `values` that holds NaN or infinity."""
    good = np.isfinite(values.reshape(len(values), -1)).all(-1)
    if not good.all():
        row = first_row + int(np.argmin(good))
        raise UserError(f"{where} row {row:,}: {what} is not a finite number; was the simulation unstable there?")


def check_sizes(got: tuple[int, int], wanted: tuple[int, int], where: str, env: str) -> None:
    """Raise `UserError` where data has another number of (observation, action) dimensions than the environment."""
    for what, there, here in zip(("observations", "actions"), got, wanted, strict=True):
        if there != here:
            raise UserError(f"{where}: {what} have {there} dimensions, {env} has {here}; is it of another environment?")


def check_range(actions: Floats, low: Floats, high: Floats, where: str, env: str) -> None:
    """Raise `UserError` naming the first action that lies outside [low, high]."""
    slack = _ROUNDING * np.where(np.isfinite(high - low), high - low, 0.0)
    for rows in chunks(len(actions)):
        outside = (actions[rows] < low - slack) | (actions[rows] > high + slack)
        if outside.any():
            row, column = (int(i) for i in np.argwhere(outside)[0])
            raise UserError(
                f"{where} row {rows.start + row:,}: action {actions[rows][row, column]:.4g} is outside {env}'s range "
                f"[{low[column]:g}, {high[column]:g}]; was it recorded before clipping? "
                "(task.data_options.clip_actions=true clips)"
            )


def normalized_actions(actions: Floats, low: Floats, high: Floats, clip: bool) -> Floats:
    """Actions in units of the half-range, [-1, 1]; unbounded dimensions are left as they are.

    Returns `actions` itself where nothing has to change, so that a memory-mapped array stays one.
    """
    if clip:
        actions = np.clip(actions, low, high)
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    middle, half = ((low + high) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)
    if not middle.any() and (half == 1.0).all():
        return actions
    return (actions - middle) / half

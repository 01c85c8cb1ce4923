"""Learning curves of several seeds, on one task or over several, as one line with a band."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unirl.compare.results import AXES, Run
from unirl.compare.statistics import Array, balanced, iqm_curve

POINTS = 200  # of a curve at most, so that a page with many of them stays small


@dataclass(frozen=True)
class Band:
    """Interquartile mean and its pointwise 95 % interval at the same x; `low` and `high` are nan with one seed."""

    x: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


NO_BANDS: Mapping[str, Band] = dict.fromkeys(AXES, Band((), (), (), ()))

_Line = tuple[Sequence[float], Sequence[float]]  # (x, score) of one run


def shown(runs: Sequence[Run]) -> list[Run]:
    """The runs behind a curve: the finished ones, or what there is as long as none has finished.

    A run that has just begun would otherwise cut the curve of the finished ones.
    """
    evaluated = [run for run in runs if run.curve.score]
    return [run for run in evaluated if run.finished] or evaluated


def bands_of(runs: Sequence[Run]) -> Mapping[str, Band]:
    """Join the evaluations of several seeds of one task, along each axis of `AXES`.

    Seeds are evaluated at different x, so each curve is read off, linearly between its evaluations, at the union of
    all x within the range that every seed covers: nothing is extrapolated. Runs without an evaluation are left out.
    """
    found = shown(runs)
    return _joined([{axis: [(run.curve.axis(axis), run.curve.score) for run in found] for axis in AXES}])


def bands_over_tasks(runs: Sequence[Sequence[Run]], ends: Sequence[float]) -> Mapping[str, Band]:
    """The same over several tasks, one sequence of runs each, in normalised scores.

    Tasks count different things as samples, so the x of a task is given in percent of its `ends` entry; seconds are
    seconds. Every task counts the same (see `statistics.balanced`).
    """
    tasks = []
    for found, end in zip(map(shown, runs), ends, strict=True):
        percent = [(tuple(100 * x / end for x in run.curve.samples), run.curve.normalised) for run in found]
        tasks.append({"samples": percent, "seconds": [(run.curve.seconds, run.curve.normalised) for run in found]})
    return _joined(tasks)


def _joined(tasks: Sequence[Mapping[str, Sequence[_Line]]]) -> Mapping[str, Band]:
    """Task -> axis -> lines, as one band for each axis; both axes are resampled at once."""
    if not all(task["samples"] for task in tasks):
        return NO_BANDS
    grids = [_grid([x for task in tasks for x, _ in task[axis]]) for axis in AXES]
    if not any(map(len, grids)):
        return NO_BANDS
    columns = [
        np.concatenate(
            [
                np.stack([np.interp(grid, x, score) for x, score in task[axis]])
                for axis, grid in zip(AXES, grids, strict=True)
            ],
            axis=1,
        )
        for task in tasks
    ]
    numbers = np.stack(iqm_curve(balanced(columns)))
    parts = np.split(numbers, [len(grids[0])], axis=1)
    return {
        axis: Band(tuple(map(float, grid)), *(tuple(map(float, line)) for line in part))
        for axis, grid, part in zip(AXES, grids, parts, strict=True)
    }


def _grid(curves: Sequence[Sequence[float]]) -> Array:
    """Every x of any curve that all of them cover; evenly spaced ones instead where there are too many."""
    first, last = max(x[0] for x in curves), min(x[-1] for x in curves)
    union = np.unique(np.concatenate([np.asarray(x, dtype=np.float64) for x in curves]))
    inside = union[(union >= first) & (union <= last)]
    return inside if len(inside) <= POINTS else np.linspace(first, last, POINTS)


def reached(band: Band, level: float) -> float | None:
    """The first x at which a curve is at `level` or above, linearly between its points; None where it never is."""
    above = [index for index, value in enumerate(band.value) if value >= level]
    if not above:
        return None
    after = above[0]
    if after == 0:
        return band.x[0]
    share = (level - band.value[after - 1]) / (band.value[after] - band.value[after - 1])
    return band.x[after - 1] + share * (band.x[after] - band.x[after - 1])

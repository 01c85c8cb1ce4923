"""Interquartile means, stratified bootstrap intervals and probabilities of improvement (Agarwal et al. 2021).

Scores are matrices [runs, tasks]: row i of a column is one training run on that task; the rows of different columns
have nothing to do with each other. Everything is drawn from generators of a fixed seed, so a report repeats exactly.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rliable.library import StratifiedBootstrap, StratifiedIndependentBootstrap

Array = NDArray[np.float64]

REPETITIONS = 2000
CONFIDENCE = 0.95
TRIMMED = 0.25  # the share of runs left out at either end
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A number, its interval (nan where there is none) and how many runs per task it is made of."""

    value: float
    low: float = math.nan
    high: float = math.nan
    runs: int = 0

    @property
    def has_interval(self) -> bool:
        """Whether there were enough runs for an interval."""
        return math.isfinite(self.low)


NOTHING = Estimate(math.nan)


class _Bootstrap(StratifiedBootstrap):  # type: ignore[misc]
    """rliable's resampling of runs within each task, from a generator of its own.

    The released class (1.2) draws from numpy's global generator, whatever seed it is given.
    """

    def __init__(self, scores: Array) -> None:
        super().__init__(scores)
        self._drawn_from = np.random.default_rng(SEED)

    def update_indices(self) -> tuple[NDArray[np.int64], ...]:
        """Runs to take, drawn with replacement anew for every task; all points of a curve stay together."""
        shape = self._args_shape[:2] + (1,) * (len(self._args_shape) - 2)
        return (self._drawn_from.integers(self._num_items, size=shape), *self._strata_indices)


class _IndependentBootstrap(StratifiedIndependentBootstrap):  # type: ignore[misc]
    """The same for two methods, whose runs are drawn independently of each other."""

    def __init__(self, first: Array, second: Array) -> None:
        super().__init__(first, second)
        self._drawn_from = np.random.default_rng(SEED)

    def _get_indices(self, num_runs: int, array_shape: tuple[int, ...], strata_indices: Any) -> tuple[Any, ...]:
        return (self._drawn_from.integers(num_runs, size=array_shape), *strata_indices)


def balanced(columns: Sequence[Sequence[float] | Array]) -> Array:
    """A matrix [runs, tasks, ...] of columns that may differ in length, each in the order of its seeds.

    Every task counts the same in an aggregate, so each gives as many runs as the shortest column has: its first
    ones. Seeds are chosen by their number, never by their score.
    """
    runs = min(len(column) for column in columns)
    return np.stack([np.asarray(column[:runs], dtype=np.float64) for column in columns], axis=1)


def iqm(scores: Array) -> Array:
    r"""Interquartile mean over runs and tasks: [runs, tasks, ...] -> [...].

    The mean of what is left after the lowest and the highest :math:`\lfloor n/4 \rfloor` of the n = runs x tasks
    scores are left out: with fewer than four it is the plain mean. Equals `rliable.metrics.aggregate_iqm`.
    """
    flat = np.sort(scores.reshape(-1, *scores.shape[2:]), axis=0)
    cut = int(TRIMMED * len(flat))
    mean: Array = flat[cut : len(flat) - cut].mean(0)
    return mean


def improvement(first: Array, second: Array) -> float:
    r"""Probability that a run of the first method scores higher than one of the second, a tie counting one half.

    .. math:: \frac1M \sum_m \frac{1}{NK} \sum_{i,j} [x_{im} > y_{jm}] + \tfrac12 [x_{im} = y_{jm}]

    `first` [N, M], `second` [K, M]. Equals `rliable.metrics.probability_of_improvement`.
    """
    x, y = first[:, None], second[None]
    return float(((x > y) + 0.5 * (x == y)).mean())


def iqm_estimate(scores: Array) -> Estimate:
    """Interquartile mean of [runs, tasks] with its interval."""
    low, high = _interval(scores)
    return Estimate(float(iqm(scores)), float(low[0]), float(high[0]), len(scores))


def iqm_curve(scores: Array) -> tuple[Array, Array, Array]:
    """(value, low, high) of [runs, tasks, points] at every point: pointwise intervals, whole runs resampled."""
    low, high = _interval(scores)
    return iqm(scores), low, high


def improvement_estimate(first: Array, second: Array) -> Estimate:
    """Probability of improvement with its interval; both methods' runs are resampled."""
    value, runs = improvement(first, second), min(len(first), len(second))
    if runs < 2:
        return Estimate(value, runs=runs)
    low, high = _confidence(_IndependentBootstrap(first, second), lambda x, y: np.array([improvement(x, y)]))
    return Estimate(value, float(low[0]), float(high[0]), runs)


def _interval(scores: Array) -> tuple[Array, Array]:
    """(low, high), nan with one run per task: nothing is known of how runs differ."""
    points = max(1, math.prod(scores.shape[2:]))
    if len(scores) < 2:
        return np.full(points, np.nan), np.full(points, np.nan)
    return _confidence(_Bootstrap(scores), lambda drawn: np.atleast_1d(iqm(drawn)))


def _confidence(bootstrap: Any, statistic: Callable[..., Array]) -> tuple[Array, Array]:
    interval = bootstrap.conf_int(statistic, reps=REPETITIONS, size=CONFIDENCE, method="percentile")
    return interval[0], interval[1]

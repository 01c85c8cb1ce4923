"""Learning curves of several seeds as one line with a band."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unirl.compare.results import Run


@dataclass(frozen=True)
class Band:
    """Mean, minimum and maximum over seeds at the same x; all of equal length."""

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def band(runs: Sequence[Run], axis: str) -> Band:
    """Join the evaluations of several seeds along `axis` ("samples" or "seconds").

    Seeds are evaluated at different x, so each curve is read off, linearly between its evaluations, at the union of
    all x within the range that every seed covers: nothing is extrapolated. Runs without an evaluation are left out.
    """
    curves = [(np.array(run.curve.axis(axis)), np.array(run.curve.score)) for run in runs if run.curve.score]
    if not curves:
        return Band((), (), (), ())
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    union = np.unique(np.concatenate([x for x, _ in curves]))
    x = union[(union >= first) & (union <= last)]
    scores = np.stack([np.interp(x, own_x, score) for own_x, score in curves])
    return Band(tuple(x), tuple(scores.mean(0)), tuple(scores.min(0)), tuple(scores.max(0)))

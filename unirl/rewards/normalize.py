"""Standardising scores."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import unknown
from unirl.registry import register

SCOPES = ("running", "batch")


@register("reward", "normalize")
class Normalize:
    r"""Scores in units of their standard deviation.

    .. math:: s \leftarrow (s - \mu) / (\sigma + \epsilon)

    scope: "running" takes mu and sigma over every score seen so far, this batch included; "batch" over this batch
        alone.
    center: whether mu is subtracted; sigma is the population deviation about mu either way.
    clip: largest absolute value of the result, or None.
    eps: 1e-8.

    Where fewer than two scores were seen sigma + eps is replaced by 1. Reads and fills `score` [N]. Has state
    (count, mean, sum of squared deviations, merged exactly by Chan et al. 1979). Raises `UserError` for an unknown
    scope.
    """

    reads = ("score",)

    def __init__(
        self, *, scope: str = "running", center: bool = True, clip: float | None = None, eps: float = 1e-8
    ) -> None:
        if scope not in SCOPES:
            raise unknown("scope of reward 'normalize'", str(scope), SCOPES)
        self.scope, self.center, self.clip, self.eps = scope, center, clip, eps
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `score` changed."""
        score = batch.score.detach()
        moments = _moments(score)
        if self.scope == "running":
            moments = self._merge(*moments)
        count, mean, squares = moments
        scale = (squares / count) ** 0.5 + self.eps if count > 1 else 1.0
        scaled = (score - mean if self.center else score) / scale
        return batch.replace(score=scaled if self.clip is None else scaled.clamp(-self.clip, self.clip))

    def _merge(self, count: int, mean: float, squares: float) -> tuple[int, float, float]:
        """Add a batch's moments to those seen so far and give the sum."""
        total = self.count + count
        if total:
            shift = mean - self.mean
            self.squares += squares + shift**2 * self.count * count / total
            self.mean += shift * count / total
            self.count = total
        return self.count, self.mean, self.squares

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and sum of squared deviations of all scores seen."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.count, self.mean, self.squares = int(state["count"]), float(state["mean"]), float(state["squares"])


def _moments(score: Tensor) -> tuple[int, float, float]:
    """Count, mean and sum of squared deviations, in double precision."""
    if not len(score):
        return 0, 0.0, 0.0
    exact = score.double()
    mean = exact.mean()
    return len(score), float(mean), float((exact - mean).square().sum())

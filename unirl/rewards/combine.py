"""From named components to one score, and from a score to a reward per decision."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.reduce.masked import last_decision, row_sums
from unirl.registry import register


@register("reward", "combine")
@dataclass(frozen=True)
class Combine:
    r"""The score as a weighted sum of named components.

    .. math:: s_i = \sum_k w_k\, r^{(k)}_i

    `weights`: name of the component -> weight. A component per decision [N, T] is first summed over the row's
    masked decisions. Reads `rewards.<name>`; fills `score` [N], replacing the earlier one. Raises `UserError`
    without weights.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.weights:
            raise UserError("reward 'combine': no weights; give {name of a component: weight}")

    @property
    def reads(self) -> tuple[str, ...]:
        """The components."""
        return tuple(f"rewards.{name}" for name in self.weights)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `score` changed."""
        total = sum(weight * _per_row(batch.rewards[name], batch) for name, weight in self.weights.items())
        return batch.replace(score=total)


@register("reward", "outcome")
@dataclass(frozen=True)
class Outcome:
    """The score as the reward of each row's last masked decision; every other reward becomes 0.

    Reads `score` [N]; fills `reward` [N, T], replacing the earlier one.
    """

    reads = ("score",)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `reward` filled."""
        return batch.replace(reward=torch.where(last_decision(batch.mask), batch.score[:, None], 0))


def _per_row(values: Tensor, batch: Batch) -> Tensor:
    return row_sums(values, batch.mask) if values.dim() == 2 else values

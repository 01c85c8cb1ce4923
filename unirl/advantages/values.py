"""Advantages from learned critics."""

from dataclasses import dataclass

import torch

from unirl.batch import Batch
from unirl.critics.heads import Aggregate, check_aggregate, over_heads
from unirl.registry import register


@register("advantage", "q_minus_v")
@dataclass(frozen=True)
class QMinusV:
    r"""The target critics' value of the recorded action minus the state's value.

    .. math:: A_t = \mathrm{agg}_k\, \bar Q_k(s_t, a_t) - V(s_t)

    `target`: how the heads are joined, "min" (as in IQL's code), "mean", "first" or `{lower: beta}`. Reads
    `target_q_data` [heads, N, T] and `value` [N, T], fills `advantage` [N, T]; no gradient. Source: implicit
    Q-learning (Kostrikov et al. 2022).
    """

    target: Aggregate = "min"
    reads = ("target_q_data", "value")

    def __post_init__(self) -> None:
        check_aggregate(self.target, "target of advantage 'q_minus_v'")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        advantage = over_heads(batch.target_q_data, self.target) - batch.value
        return batch.replace(advantage=torch.where(batch.mask, advantage.detach(), 0))

"""Critics that pay for leaving the data at the next state."""

from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.q import Q
from unirl.registry import register


@register("critic", "behavior_q")
class BehaviorQ(Q):
    r"""Temporal-difference regression whose next value falls with the distance from the recorded action (ReBRAC).

    .. math:: y = r + \gamma (1 - \mathrm{terminated})
        \big[\mathrm{agg}_k \bar Q_k(s', a') - \beta \|a' - \hat a'\|^2\big]

    a' is the (smoothed) action of the target policy, `next_policy_action`; with a hat it is the action that was
    recorded next, `next_reference_action` (the data option `next_action`), and where the recording is cut there is none
    and no penalty. `penalty` is beta, on the sum over action dimensions. `layer_norm`: of the hidden layers. The other
    hyper-parameters are those of critic `q`, bootstrapping from critics.

    Reads `q_data`, `next_q` [heads, N, T], both actions [N, T, A], `reward`, `terminated`, `truncated`. Source: Tarasov
    et al. 2023 (ReBRAC); BRAC's value penalty (Wu et al. 2019).
    """

    def __init__(
        self, *, penalty: float = 1.0, layer_norm: bool = True, target_policy: bool = True, **options: Any
    ) -> None:
        super().__init__(layer_norm=layer_norm, target_policy=target_policy, **options)
        self.penalty = penalty

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return (*super().reads, "next_policy_action", "next_reference_action", "truncated")

    def _next(self, batch: Batch) -> Tensor:
        distance = (batch.next_policy_action - batch.next_reference_action).square().sum(-1)
        return super()._next(batch) - self.penalty * torch.where(batch.truncated, 0, distance)

"""Advantages over turns: several decisions that count as one."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from unirl.advantages.returns import GAE
from unirl.advantages.scan import reverse_scan
from unirl.batch import Batch
from unirl.reduce.masked import Units
from unirl.registry import register


@register("advantage", "turn_gae")
@dataclass(frozen=True)
class TurnGAE:
    r"""Generalised advantage estimation with a turn as the step: every decision of a turn has the turn's advantage.

    .. math::

        \delta_u = \sum_{t \in u} r_t + \gamma V_{u+1} - V_u, \qquad A_u = \delta_u + \gamma\lambda A_{u+1}, \qquad
        A_t = A_u \text{ for } t \in u

    V_u is `value` at the first decision of turn u, when all that was said before has been read. Where the episode was
    cut after a turn (truncated, or the row ends) V_{u+1} is `next_value` of its last decision; after a termination it
    is 0. Discounts count turns, not tokens, so that credit reaches over long answers. With turns of one decision it is
    `gae`, where `next_value` is the value at the next decision.

    `gamma`, `lam`: per turn, 1 and 1 by default. Reads `reward`, `value`, `next_value`, `terminated`, `truncated` and
    `turn`, whose numbers differ along a row; fills `advantage` and `returns` = A_u + V_u, both [N, T]. Goes with
    `critic: {name: v, per_turn: true}`. Source: multi-turn PPO with turn-level critics (Zhou et al. 2024, ArCHer).
    """

    gamma: float = 1.0
    lam: float = 1.0
    reads = ("reward", "value", "next_value", "terminated", "truncated", "turn")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        turns = Units(batch.turn, batch.mask)
        first = turns.first()
        value = turns.of_first(batch.value.detach())
        terminated = batch.terminated | (first & (turns.sum(batch.terminated.to(value)) > 0))
        truncated = batch.truncated | (first & (turns.sum(batch.truncated.to(value)) > 0))
        following, goes_on = _next_first(value, first, terminated | truncated)
        steps = batch.replace(
            mask=first,
            reward=turns.sum(batch.reward.detach()),
            value=value,
            next_value=torch.where(goes_on, following, turns.of_last(batch.next_value.detach())),
            terminated=terminated,
            truncated=truncated,
        )
        advantage = turns.of_first(GAE(self.gamma, self.lam)(steps).advantage)
        masked = torch.where(batch.mask, advantage, 0)
        return batch.replace(advantage=masked, returns=torch.where(batch.mask, advantage + value, 0))


def _next_first(value: Tensor, first: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """The value at the next turn's first decision, and whether the same episode has one, both [N, T]."""
    on = (~first & ~ended).to(value)
    found = [reverse_scan(torch.where(first, values, 0), on) for values in (value, torch.ones_like(value))]
    shifted = [pad(values[:, 1:], (0, 1)) for values in found]
    return shifted[0], (shifted[1] > 0) & ~ended

"""Advantages of rewards and of costs, side by side."""

from dataclasses import dataclass

import torch

from unirl.advantages.returns import GAE
from unirl.advantages.scan import reverse_scan
from unirl.batch import Batch
from unirl.errors import UserError
from unirl.registry import register


@register("advantage", "gae_with_cost")
@dataclass(frozen=True)
class GAEWithCost:
    r"""Generalised advantages of the reward and of the cost, and what an episode costs.

    .. math:: J = \underset{rows}{\mathrm{mean}} \sum_t \gamma^t c_t

    `value` has two heads, of the reward's and of the cost's return. Fills `advantage`, `returns`, `cost_advantage`,
    `cost_returns` [N, T] and the scalars `episode_cost` J and `episode_length`, the mean number of decisions; a row is
    an episode. gamma .99, lam .95 (OGSRL). Reads `rewards.cost` [N, T] >= 0 and what `gae` reads, with `value` and
    `next_value` [2, N, T]. Raises `UserError` where the world reports no costs. Sources: CPO (Achiam et al. 2017),
    OGSRL [3].
    """

    gamma: float = 0.99
    lam: float = 0.95
    reads = ("rewards.cost", "reward", "value", "next_value", "terminated", "truncated")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with both advantages filled."""
        if "rewards.cost" not in batch:
            raise UserError("advantage 'gae_with_cost': this world reports no costs (an environment's info['cost'])")
        gae, cost = GAE(self.gamma, self.lam), batch.rewards["cost"]
        value, following = batch.value, batch.next_value
        paid, spent = (
            gae(batch.replace(reward=reward, value=value[head], next_value=following[head]))
            for head, reward in enumerate((batch.reward, cost))
        )
        kept = torch.where(batch.mask, cost, 0)
        discount = torch.where(batch.mask, self.gamma, 1.0).to(cost)
        return batch.replace(
            advantage=paid.advantage,
            returns=paid.returns,
            cost_advantage=spent.advantage,
            cost_returns=spent.returns,
            episode_cost=reverse_scan(kept, discount)[:, 0].mean(),
            episode_length=batch.mask.sum() / len(batch),
        )

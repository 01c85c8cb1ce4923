"""A limit on what an episode may cost, as a constraint for the gradient rule `trust_region`."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.registry import register


@register("regularizer", "cost_limit")
@dataclass(frozen=True)
class CostLimit:
    r"""By how much an episode's cost exceeds its limit, to first order in the policy.

    .. math:: C_t = J - d + \bar T\, (r_t - 1)\, A^{cost}_t, \qquad r_t = e^{\log\pi_\theta - \log\pi_{old}}

    Its mean over decisions is J - d at the old policy (J is `episode_cost`, d `limit`), and its gradient that of the
    cost: the mean over decisions times their number in an episode, T, is the sum over an episode. Used as
    `constraints: {cost: {name: cost_limit, limit: 0.5}}`.

    Reads `logp`, `old_logp`, `cost_advantage` [N, T] and the scalars `episode_cost`, `episode_length`; gives [N, T].
    Raises `UserError` for a negative limit: costs are 0 or more. Sources: CPO (Achiam et al. 2017), OGSRL [3] (limit
    .5).
    """

    limit: float = 0.5
    reads = ("logp", "old_logp", "cost_advantage", "episode_cost", "episode_length")

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise UserError(
                f"regularizer 'cost_limit': limit is {self.limit}; costs are 0 or more, and so is their limit"
            )

    def __call__(self, batch: Batch) -> Tensor:
        """The excess per decision, [N, T]."""
        change = (batch.logp - batch.old_logp.detach()).expm1() * batch.cost_advantage.detach()
        excess: Tensor = batch.episode_cost - self.limit + batch.episode_length * change
        return excess

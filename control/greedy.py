"""Acting on an action-value critic: the best choice, and a random one now and then."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unirl.control.distributions import Categorical, Sample
from unirl.control.envs import ActionSpace
from unirl.errors import UserError

EPSILON = 0.05


@dataclass(frozen=True)
class Greedy(Categorical):
    r"""All probability on one choice; what is executed in training is uniformly random with probability `epsilon`.

    The expectation of target critics over it is :math:`\bar Q(s, \arg\max_a Q(s, a))`: Q-learning's target where Q is
    the target critic too, double Q-learning's where it is the trained one. Only `sample` explores; its
    log-probability is that of exploring.
    """

    epsilon: float

    @classmethod
    def of_values(cls, values: Tensor, epsilon: float) -> "Greedy":
        """Greedy in values [..., A]; the first of equal ones. Other choices get the most negative finite logarithm."""
        best = nn.functional.one_hot(values.argmax(-1), values.shape[-1]).bool()
        return cls(torch.where(best, 0.0, torch.finfo(values.dtype).min), epsilon)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Sample:
        """The best choice, or with probability `epsilon` any."""
        choices = self.log_probs.shape[-1]
        explored = (1 - self.epsilon) * self.probs + self.epsilon / choices
        action = torch.multinomial(explored.reshape(-1, choices), 1, generator=generator)
        action = action.reshape(explored.shape[:-1])
        return Sample(action, explored.log().gather(-1, action.unsqueeze(-1)).squeeze(-1))


class GreedyPolicy(nn.Module):
    """The choice that an action-value critic likes best, on average over its heads.

    It has no weights of its own: `critic` is the domain's and belongs to role `q`. `epsilon` (.05) is the share of
    random choices in training. Raises `UserError` for an epsilon outside [0, 1]. Source: DQN (Mnih et al. 2015).
    """

    critic: nn.Module

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.epsilon = float(model.get("epsilon", EPSILON))
        if not 0 <= self.epsilon <= 1:
            raise UserError(f"policy 'greedy': epsilon is {self.epsilon}; it lies in [0, 1]")

    def forward(self, observation: Tensor) -> Greedy:
        """pi(. | observation)."""
        values = self.critic(observation).detach()
        return Greedy.of_values(values.mean(0), self.epsilon)

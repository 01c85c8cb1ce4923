"""A learned reward, beside the critic (Symphony [177])."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.networks import ValueMLP, hidden_sizes
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.domain import ControlDomain
    from unirl.control.score import Scorer


@register("model", "reward_head")
class RewardHead(AuxiliaryModel):
    """`model.reward` [N, T]: the reward of the recorded decision, by a network of the policy's hidden sizes."""

    fields: ClassVar = {"reward": "reward"}

    def build(self, domain: "ControlDomain") -> None:
        """Make the network."""
        sizes = [domain.observation_size + domain.actions.size, *hidden_sizes(domain.model), 1]
        self.network = ValueMLP(sizes, domain.model.get("activation", "relu"))

    def reward(self, scorer: "Scorer") -> Tensor:
        """The prediction."""
        predicted: Tensor = self.network(torch.cat([scorer.observation, scorer.action], -1))
        return predicted

"""What a policy offers that looks back on what it saw and did."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from unirl.control.distributions import Distribution


class HistoryPolicy(nn.Module, ABC):
    """pi(. | the last `context` observations and the actions between them).

    Rows are consecutive decisions of one episode, right-padded: what comes later must not matter to what comes before.
    """

    context: int

    @abstractmethod
    def encode(self, observation: Tensor, action: Tensor, time: Tensor) -> Tensor:
        """Features [N, T, H] of observations [N, T, O], actions [N, T, A] and numbers of decisions [N, T].

        Those of decision t depend on observations up to t and on actions before it. Raises `UserError` where T exceeds
        the context.
        """

    @abstractmethod
    def head(self, features: Tensor) -> Distribution:
        """The distribution that features [..., H] stand for."""

    def forward(self, observation: Tensor, action: Tensor, time: Tensor | None = None) -> Distribution:
        """The distributions of all decisions of every row; `time` counts from the row's start where it is not given."""
        if time is None:
            time = torch.arange(observation.shape[1], device=observation.device).expand(observation.shape[:2])
        return self.head(self.encode(observation, action, time))

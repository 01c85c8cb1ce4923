"""A policy that says how strongly it acts: tanh(S A + N) with noise N of fixed size (Symphony [177])."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unirl.control.distributions import Sample, TanhGaussian
from unirl.control.envs import ActionSpace
from unirl.control.networks import MLP, hidden_sizes
from unirl.errors import UserError


@dataclass(frozen=True)
class Scaled(TanhGaussian):
    r"""tanh(S A + N), N from a standard Gaussian clipped to +-e and divided by e; all [..., A].

    `scale` S and `damping` B, in [0, 1), are what regularizer `swaddling` weighs. Log-densities are those of the
    Gaussian of standard deviation 1/e before it is clipped (which .7 % of its draws are) and squashed.
    """

    scale: Tensor
    damping: Tensor

    def rsample(self, generator: torch.Generator | None = None) -> Sample:
        """A fresh action with its noise; the gradient flows through S A."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        noise = noise.clamp(-math.e, math.e)
        raw = self.mean + noise / math.e
        return Sample(torch.tanh(raw), self._log_prob(noise, raw))


class SymphonyPolicy(nn.Module):
    """(A, S, B) = tanh(network / 2) with S and B made positive; the action is tanh(S A + noise).

    `gradient_dropout`: the probability with which an output of the network passes no gradient on, drawn anew for every
    input from torch's global generator (.5 in Symphony's code; 0: none). Outputs themselves stay as they are. Raises
    `UserError` for a probability outside [0, 1).
    """

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.gradient_dropout = float(model.get("gradient_dropout", 0.0))
        if not 0 <= self.gradient_dropout < 1:
            raise UserError(f"policy 'symphony': gradient_dropout is {self.gradient_dropout}; it lies in [0, 1)")
        self.network = MLP(
            [observation_size, *hidden_sizes(model), 3 * actions.size],
            model.get("activation", "relu"),
            half=bool(model.get("half", False)),
            layer_norm=bool(model.get("layer_norm", False)),
            dropout=float(model.get("dropout", 0.0)),
        )

    def forward(self, observation: Tensor) -> Scaled:
        """pi(. | observation)."""
        outputs = self.network(observation)
        if self.gradient_dropout and outputs.requires_grad:
            outputs = gradient_dropout(outputs, self.gradient_dropout)
        direction, scale, damping = torch.tanh(outputs / 2).chunk(3, -1)
        scale = scale.abs()
        return Scaled(scale * direction, torch.full_like(direction, -1.0), scale, damping.abs())


def gradient_dropout(x: Tensor, probability: float) -> Tensor:
    """The input itself, whose gradient is 0 at a share of its elements, drawn anew every time."""
    passes = torch.rand_like(x) >= probability
    return torch.where(passes, x, x.detach())

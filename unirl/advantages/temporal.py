"""Advantage over time: a value less the moving average of the values that went before (Symphony [177])."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.rectified_huber import signed_rectified
from unirl.errors import UserError
from unirl.golden import PHI
from unirl.registry import register


class MovingMean:
    """m <- decay m + (1 - decay) mean, from 0; `decay` 1 / phi = .618 is Symphony's."""

    def __init__(self, decay: float = 1 / PHI) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"the decay of a moving average is {decay}; it lies in [0, 1)")
        self.decay = decay
        self.value = torch.zeros(())

    def moved(self, values: Tensor) -> Tensor:
        """Take these values in, and give the new average."""
        self.value = torch.lerp(values.detach().mean().to(torch.float32), self.value, self.decay)
        return self.value.to(values)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.value = torch.as_tensor(state["value"])


def relative(values: Tensor, mean: Tensor) -> Tensor:
    """(v - m) / |m|."""
    return (values - mean) / mean.abs().clamp(min=1e-8)


@register("advantage", "temporal")
class Temporal:
    r"""The row's score less the moving average of scores, in units of that average.

    .. math:: m \leftarrow d\, m + (1 - d)\, \bar s, \qquad A_{it} = (s_i - m) / |m|

    `decay`: d, 1 / phi (Symphony's). `scale`: false leaves the division out, which is REINFORCE's moving baseline.
    `squash`: |A| tanh(A / 2) in place of A (ReHAE): small advantages count less, large ones as they are.

    Reads `score` [N]; fills `advantage` [N, T], 0 outside the mask. It has a state, the average. Source: Symphony
    [177], which takes critics' values in place of scores (objective `temporal_advantage`).
    """

    reads = ("score",)

    def __init__(self, decay: float = 1 / PHI, scale: bool = True, squash: bool = False) -> None:
        self.average, self.scale, self.squash = MovingMean(decay), scale, squash

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        score = batch.score.detach().to(torch.promote_types(batch.score.dtype, torch.float32))
        mean = self.average.moved(score)
        advantage = relative(score, mean) if self.scale else score - mean
        if self.squash:
            advantage = signed_rectified(advantage)
        return batch.replace(advantage=torch.where(batch.mask, advantage[:, None], 0))

    def state_dict(self) -> dict[str, Any]:
        """The moving average."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.average.load_state_dict(state)

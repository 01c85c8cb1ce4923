"""Errors that count as squares where they are small and as sizes where they are large, smoothly (Symphony [177])."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.registry import register


def rectified(error: Tensor) -> Tensor:
    """ReHSE, e tanh(e / 2): about e^2 / 2 for small errors and |e| for large ones, the same in both directions."""
    return error * torch.tanh(error / 2)


def signed_rectified(error: Tensor) -> Tensor:
    """ReHAE, |e| tanh(e / 2): the same size with the sign of the error."""
    return error.abs() * torch.tanh(error / 2)


@register("regression", "rectified_huber")
@dataclass(frozen=True)
class RectifiedHuber:
    """u tanh(u / 2): about u^2 / 2 for small errors and |u| for large ones; its gradient never exceeds about 1.2.

    Source: Symphony [177] (ReHSE).
    """

    reads = ()

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss per prediction."""
        return rectified(target - prediction)

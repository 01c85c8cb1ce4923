"""What strong actions cost (Symphony [177])."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Requirements
from unirl.registry import register

SCALES = ("model.next_scale", "model.next_damping")
_MARGIN = 1e-6  # both numbers lie in (0, 1); at the ends the cost would be infinite


@register("regularizer", "swaddling")
@dataclass(frozen=True)
class Swaddling:
    r"""A barrier against strong actions that the policy may loosen, at a price.

    .. math:: R_t = \frac{1}{\dim A} \sum_j \Big[\Omega\big(x_j^{1 / \mathrm{sg}(k_j)}\big) + k_j x_j \ln x_j +
        \Omega(k_j^2)\Big], \qquad \Omega(z) = \ln\frac{1 + z}{1 - z}

    x is the strength S and k the damping B that a policy of kind `symphony` gives for each dimension of its action at
    the next state, both in (0, 1). The first two terms are the cost that critic `node_q` subtracts from the next
    state's value.

    Reads `model.next_scale`, `model.next_damping` [N, T, A], gives [N, T]. Source: Symphony [177].
    """

    domains = frozenset({"control"})
    reads = SCALES

    def requirements(self) -> Requirements:
        """The numbers that the policy gives with its actions."""
        return Requirements(models={"action_scale": {}})

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        scale, damping = batch.model["next_scale"], batch.model["next_damping"]
        price = _barrier(_inside(damping).square())
        return (effort(scale, damping) + price).mean(-1)


def effort(scale: Tensor, damping: Tensor) -> Tensor:
    """Omega(x^(1 / sg k)) + k x ln x for strengths x and damping k in (0, 1), elementwise."""
    x, k = _inside(scale), _inside(damping)
    return _barrier(x ** (1 / k.detach())) + k * x * x.log()


def _inside(value: Tensor) -> Tensor:
    return value.clamp(_MARGIN, 1 - _MARGIN)


def _barrier(z: Tensor) -> Tensor:
    """ln((1 + z) / (1 - z))."""
    return torch.log1p(z) - torch.log1p(-z)

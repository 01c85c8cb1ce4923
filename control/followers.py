"""Networks that follow others: target networks and anchors."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy that is not trained."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def move(follower: nn.Module, leader: nn.Module, weight: float) -> None:
    """Set follower <- (1 - weight) * follower + weight * leader; a weight of 1 copies exactly."""
    to: list[Tensor] = list(follower.parameters())
    source: list[Tensor] = list(leader.parameters())
    if weight == 1.0:
        torch._foreach_copy_(to, source)
    else:
        torch._foreach_lerp_(to, source, weight)


def copied(network: nn.Module) -> dict[str, Any]:
    """The network's state, apart from it."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

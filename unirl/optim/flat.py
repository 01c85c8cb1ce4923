"""Parameters and their gradients as one vector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def flat_gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradients as one vector, 0 where there is none."""
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]).clone()


def split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The pieces of a vector in the shapes of these tensors."""
    pieces = flat.split([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]


def set_gradient(parameters: list[nn.Parameter], flat: Tensor) -> None:
    """Put the pieces of a vector into `.grad`."""
    for parameter, piece in zip(parameters, split(flat, parameters), strict=True):
        parameter.grad = piece.clone()


@torch.no_grad()
def restore(parameters: list[nn.Parameter], start: list[Tensor]) -> None:
    """Set the parameters to these values."""
    for parameter, origin in zip(parameters, start, strict=True):
        parameter.copy_(origin)

"""Critics that normalise over the batch."""

from typing import Any

import torch
from torch import Tensor, nn

from unirl.control.low_precision import affine
from unirl.control.networks import ACTIVATIONS, MLP


class BatchRenorm(nn.Module):
    r"""Normalisation over the batch, by statistics of the batch while learning and by running ones otherwise.

    .. math:: y = g \Big(\frac{x - m}{s} r + d\Big) + h, \qquad
        r = \mathrm{clip}(s / \bar s, 1/3, 3), \quad d = \mathrm{clip}((m - \bar m) / \bar s, \pm 5)

    m, s are the batch's mean and standard deviation, \bar m, \bar s running ones, r and d constants. Until `warmup`
    batches have been seen r = 1 and d = 0, which is batch normalisation. Input and output are [heads, B, size], gain g
    and shift h apart for every head. Sources: Ioffe 2017; constants as in the CrossQ of Stable-Baselines (sbx).
    """

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, size: int, heads: int, momentum: float = 0.99, eps: float = 1e-3, warmup: int = 100_000) -> None:
        super().__init__()
        self.momentum, self.eps, self.warmup = momentum, eps, warmup
        shape = (heads, 1, size)
        self.gain, self.shift = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Normalised; in training mode and not `frozen` by the batch, whose statistics then move the running ones."""
        if frozen or not self.training:
            gain, shift = (self.gain.detach(), self.shift.detach()) if frozen else (self.gain, self.shift)
            return (x - self.mean) * (gain * (self.variance + self.eps).rsqrt()) + shift
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        deviation = (variance + self.eps).sqrt()
        normal = (x - mean) / deviation
        if int(self.seen) >= self.warmup:
            running = (self.variance + self.eps).sqrt()
            ratio = (deviation.detach() / running).clamp(1 / 3, 3.0)
            offset = ((mean.detach() - self.mean) / running).clamp(-5.0, 5.0)
            normal = normal * ratio + offset
        self._remember(mean.detach(), variance.detach())
        return normal * self.gain + self.shift

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        self.mean.lerp_(mean, 1 - self.momentum)
        self.variance.lerp_(variance, 1 - self.momentum)
        self.seen += 1


class RenormMLP(MLP):
    """An ensemble of values, [..., I] -> [heads, ...], whose inputs and hidden layers are normalised over the batch.

    With `frozen` (an actor that follows the value) running statistics are used, whatever the mode.
    """

    def __init__(self, sizes: list[int], heads: int, **options: Any) -> None:
        super().__init__(sizes, heads=heads, **(options | {"half": False}))
        self.renorms = nn.ModuleList(BatchRenorm(size, heads) for size in sizes[:-1])

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """The value of every input."""
        assert self.heads is not None
        hidden = self.renorms[0](x.reshape(-1, x.shape[-1]).expand(self.heads, -1, -1), frozen)
        layers = [(w.detach(), b.detach()) for w, b in self.layers] if frozen else self.layers
        for renorm, (weight, bias) in zip(self.renorms[1:], layers[:-1], strict=True):
            hidden = renorm(ACTIVATIONS[self.activation](affine(hidden, weight, bias)), frozen)
        return affine(hidden, *layers[-1]).reshape(self.heads, *x.shape[:-1])

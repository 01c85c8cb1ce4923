"""Networks of the control domain: fully connected layers, alone or as a stacked ensemble."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unirl.control.low_precision import HalfPrecision, affine
from unirl.errors import UserError, unknown

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
}
Network = TypeVar("Network", bound="MLP")
HALF_ROWS = 64  # below this many inputs, converting the weights costs more than half precision saves


class MLP(nn.Module):
    r"""Fully connected layers of the given sizes, with the activation between them and none at the end.

    Without `heads`: [..., I] -> [..., O]. With `heads`: that many networks of equal shape, evaluated together,
    [..., I] -> [heads, ..., O]; each layer is one stacked weight [heads, in, out] and bias [heads, 1, out] applied by
    `torch.baddbmm`, so an ensemble costs one kernel per layer.

    Weights [in, out] and biases start as those of `nn.Linear`, uniform in :math:`\pm 1/\sqrt{\mathrm{fan\_in}}`,
    independently for every head. `half` makes the products of all layers but the last in bfloat16 (see
    `unirl.control.low_precision`) for inputs of at least `HALF_ROWS` rows; only plain relu networks can.

    `layer_norm` normalises every hidden layer before its activation (Ba et al. 2016; in critics: Ball et al. 2023,
    RLPD). `dropout` is the probability with which a hidden unit is dropped in training mode, drawn from torch's
    global generator.

    Raises `UserError` for an unknown activation.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        heads: int | None = None,
        half: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation (model.activation)", activation, ACTIVATIONS)
        self.heads = heads
        self.activation = activation
        self.dropout = dropout
        self.norms = nn.ModuleList(Normalized(size, heads) for size in sizes[1:-1] if layer_norm)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            shapes = (
                ((fan_in, fan_out), (fan_out,)) if heads is None else ((heads, fan_in, fan_out), (heads, 1, fan_out))
            )
            for parameters, shape in zip((self.weights, self.biases), shapes, strict=True):
                parameters.append(nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
        self.layers = list(zip(self.weights, self.biases, strict=True))  # iterating a ParameterList costs 20 us
        self.piecewise_linear = activation == "relu" and not layer_norm and not dropout
        self.half_precision = half and self.piecewise_linear and len(sizes) > 2
        self._in_half, self._first_in_half = HalfPrecision(), HalfPrecision()

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Every input's output; with `frozen` the gradient reaches `x` (an action) but not the weights."""
        hidden = x.reshape(-1, x.shape[-1])
        layers = [(w.detach(), b.detach()) for w, b in self.layers] if frozen else self.layers
        if self._halved(hidden):
            outputs = self._in_half(hidden, layers)
        else:
            hidden = hidden if self.heads is None else hidden.expand(self.heads, -1, -1)
            outputs = self._in_full(hidden, layers, frozen)
        return outputs.reshape(*outputs.shape[:-2], *x.shape[:-1], outputs.shape[-1])

    def first_head(self, x: Tensor) -> Tensor:
        """An ensemble's first output, [..., I] -> [..., O]; the gradient reaches `x` but not the weights."""
        return self.forward(x, frozen=True)[0]

    def each_head(self, x: Tensor) -> Tensor:
        """An input of its own for every head, [heads, B, I] -> [heads, B, O]; float32, differentiable twice."""
        return self._in_full(x, self.layers, frozen=False)

    def _halved(self, inputs: Tensor) -> bool:
        return self.half_precision and len(inputs) >= HALF_ROWS

    def _in_full(self, hidden: Tensor, layers: Sequence[tuple[Tensor, Tensor]], frozen: bool) -> Tensor:
        """All layers in float32."""
        for index, (weight, bias) in enumerate(layers[:-1]):
            hidden = self._activated(affine(hidden, weight, bias), index, frozen)
        return affine(hidden, *layers[-1])

    def _activated(self, hidden: Tensor, index: int, frozen: bool) -> Tensor:
        """A hidden layer normalised, activated, thinned out."""
        if self.norms:
            hidden = self.norms[index](hidden, frozen)
        hidden = ACTIVATIONS[self.activation](hidden)
        return F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden


class Normalized(nn.Module):
    """Layer normalisation with a gain and a shift of each head: [..., size] or [heads, ..., size]."""

    def __init__(self, size: int, heads: int | None) -> None:
        super().__init__()
        shape = (size,) if heads is None else (heads, 1, size)
        self.gain, self.shift = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Zero mean and unit variance over the last dimension, then gain and shift."""
        gain, shift = (self.gain.detach(), self.shift.detach()) if frozen else (self.gain, self.shift)
        return F.layer_norm(x, x.shape[-1:]) * gain + shift


class ValueMLP(MLP):
    """Layers that end in one number: [..., I] -> [...], or [heads, ...] for an ensemble."""

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """The value of every input."""
        return super().forward(x, frozen).squeeze(-1)

    def first_head(self, x: Tensor) -> Tensor:
        """An ensemble's first value, [..., I] -> [...], frozen; others are evaluated only if layers are normalised."""
        if self.norms:
            return super().first_head(x)
        hidden = x.reshape(-1, x.shape[-1])
        layers = [(weight[0].detach(), bias[0, 0].detach()) for weight, bias in self.layers]
        half = self._halved(hidden)
        value = self._first_in_half(hidden, layers) if half else self._in_full(hidden, layers, frozen=True)
        return value.reshape(x.shape[:-1])


def hidden_sizes(model: Mapping[str, Any], key: str = "hidden") -> list[int]:
    """The sizes of hidden layers that a model's configuration gives, [256, 256] where it gives none (SAC, TD3).

    Raises `UserError` for anything but a list of positive whole numbers.
    """
    given = model.get(key, (256, 256))
    if not isinstance(given, list | tuple) or not all(isinstance(size, int) and size > 0 for size in given):
        raise UserError(f"model.{key} is {given!r}; give the sizes of the layers, such as [256, 256]")
    return list(given)


def orthogonal(network: Network, output_gain: float) -> Network:
    """Orthogonal weights of gain sqrt(2) (`output_gain` in the last layer) and zero biases, in place.

    The usual start of on-policy methods: a near-zero last layer of the policy makes the first actions nearly
    independent of the observation (Andrychowicz et al. 2021).
    """
    last = len(network.weights) - 1  # (every head of an ensemble gets a start of its own)
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        for matrix in weight if network.heads is not None else (weight,):
            nn.init.orthogonal_(matrix, output_gain if index == last else math.sqrt(2))
        nn.init.zeros_(bias)
    return network

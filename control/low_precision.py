"""Products in bfloat16: half the time of float32 where the processor has the instructions.

Weights, gradients and the optimizer stay float32, and so does the last layer, so that values of several hundreds keep
their digits; the products of all other layers are made of bfloat16 numbers (8 bits of mantissa) and summed in float32.
This is what `torch.autocast` does, with one conversion of all weights per pass in place of one per operation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

NARROW = 16  # outputs below which a product goes through the transposed weights

_relu_backward = torch.ops.aten.threshold_backward.default


class HalfPrecision:
    """ReLU layers whose products are made in bfloat16, and a last one without activation in float32.

    The memory of the converted weights is used again by every call, so, as always, the backward pass of a call comes
    before the parameters change.
    """

    def __init__(self) -> None:
        self._converted: list[Tensor] = []

    def __call__(self, x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """[B, I] -> [B, O], or [heads, B, O] for weights [heads, in, out]; float32 in and out."""
        parameters = [*(weight for weight, _ in layers), *(bias for _, bias in layers)]
        if not self._converted:
            hidden = [*(weight for weight, _ in layers[:-1]), *(bias for _, bias in layers[:-1])]
            self._converted = [torch.empty_like(p, dtype=torch.bfloat16, requires_grad=False) for p in hidden]
        if not torch.is_grad_enabled():
            return _through(x, self._converted, parameters)[0]
        output: Tensor = _Layers.apply(x, self._converted, *parameters)  # type: ignore[no-untyped-call]
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> "HalfPrecision":
        """A copied network converts its own weights."""
        return HalfPrecision()


class _Layers(torch.autograd.Function):
    """All layers as one node of the graph. It cannot be differentiated twice: gradient penalties need float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, converted: list[Tensor], *parameters: Tensor) -> Tensor:
        output, layers, last = _through(x, converted, parameters)
        # Held by this node alone and never changed: `save_for_backward` would add nothing but time
        ctx.layers, ctx.last, ctx.weights = layers, last, converted[: len(layers) - 1]
        ctx.last_weight = parameters[len(layers) - 1]
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layers, count = ctx.layers, len(ctx.layers)
        to_input, learning = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        of_weights: list[Tensor | None] = [None] * count
        of_biases: list[Tensor | None] = [None] * count
        if learning:
            of_weights[-1] = _transposed_product(ctx.last, gradient)
            of_biases[-1] = _summed(gradient)
        gradient = _back(gradient, ctx.last_weight)
        for index in reversed(range(count - 1)):
            gradient = _relu_backward(gradient, layers[index + 1], 0)
            if learning:
                of_weights[index] = _transposed_product(layers[index], gradient).float()
                of_biases[index] = _summed(gradient)
            if index > 0 or to_input:
                gradient = torch.matmul(gradient, ctx.weights[index].transpose(-1, -2))
        of_input = None
        if to_input:
            of_input = (gradient if gradient.dim() == 2 else gradient.sum(0)).float()
        return of_input, None, *of_weights, *of_biases


def _through(x: Tensor, converted: list[Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """The output, what every layer was given in bfloat16, and what the last one was given in float32."""
    count = len(parameters) // 2
    weights, biases = parameters[:count], parameters[count:]
    torch._foreach_copy_(converted, [*weights[:-1], *biases[:-1]])
    hidden = x.to(torch.bfloat16)
    if weights[0].dim() == 3:
        hidden = hidden.expand(len(weights[0]), -1, -1)
    layers = [hidden]
    for weight, bias in zip(converted[: count - 1], converted[count - 1 :], strict=True):
        product = torch.addmm if weight.dim() == 2 else torch.baddbmm
        hidden = product(bias, hidden, weight).relu_()
        layers.append(hidden)
    last = hidden.float()
    return affine(last, weights[-1], biases[-1]), layers, last


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[B, I] or [heads, B, I] times [..., I, O], plus the bias.

    Few outputs are made from the transposed weights and head by head: on processors that takes a quarter of the time.
    """
    if weight.shape[-1] >= NARROW:
        return torch.addmm(bias, x, weight) if weight.dim() == 2 else torch.baddbmm(bias, x, weight)
    if weight.dim() == 2:
        return F.linear(x, weight.t().contiguous(), bias)
    heads = zip(x.unbind(), weight.unbind(), strict=True)
    return torch.stack([F.linear(each, columns.t().contiguous()) for each, columns in heads]) + bias


def _transposed_product(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the weights, [..., I, O], of x [..., B, I] and gradient [..., B, O]; as in `affine`."""
    if gradient.shape[-1] >= NARROW:
        return torch.matmul(x.transpose(-1, -2), gradient)
    if x.dim() == 2:
        return torch.mm(gradient.t(), x).t()
    heads = zip(x.unbind(), gradient.unbind(), strict=True)
    return torch.stack([torch.mm(columns.t(), each).t() for each, columns in heads])


def _summed(gradient: Tensor) -> Tensor:
    return gradient.sum(-2, keepdim=gradient.dim() == 3).float()  # summing into float32 takes fifteen times as long


def _back(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the last hidden layer, in bfloat16."""
    gradient, weight = gradient.to(torch.bfloat16), weight.to(torch.bfloat16).transpose(-1, -2)
    return gradient * weight if weight.shape[-2] == 1 else torch.matmul(gradient, weight)

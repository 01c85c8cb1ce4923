"""Networks of the control domain: plain MLPs and a stacked ensemble of them."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unirl.errors import unknown

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU}
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
}


def mlp(sizes: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """Fully connected layers of the given sizes, with the activation between them and none at the end.

    Raises `UserError` for an unknown activation.
    """
    kind = _known(activation)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[kind]()]
    return nn.Sequential(*layers[:-1])


def orthogonal(network: nn.Sequential, output_gain: float) -> nn.Sequential:
    """Orthogonal weights of gain sqrt(2) (`output_gain` in the last layer) and zero biases, in place.

    The usual start of on-policy methods: a near-zero last layer of the policy makes the first actions nearly
    independent of the observation (Andrychowicz et al. 2021).
    """
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, output_gain if layer is linear[-1] else math.sqrt(2))
        nn.init.zeros_(layer.bias)
    return network


class ValueMLP(nn.Module):
    """State value: [..., O] -> [...]. Orthogonal start with gain 1 in the last layer, as in implementations of PPO."""

    def __init__(self, observation_size: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        self.network = orthogonal(mlp([observation_size, *hidden, 1], activation), output_gain=1.0)

    def forward(self, observation: Tensor) -> Tensor:
        """The value of every observation."""
        value: Tensor = self.network(observation)
        return value.squeeze(-1)


class EnsembleMLP(nn.Module):
    r"""`heads` MLPs of equal shape, evaluated together: [..., I] -> [heads, ..., O], or [heads, ...] where O = 1.

    Each layer is one stacked weight [heads, in, out] and bias [heads, 1, out] applied by `torch.baddbmm`, so an
    ensemble costs one kernel per layer. Weights and biases start as those of `nn.Linear`,
    uniform in :math:`\pm 1/\sqrt{\mathrm{fan\_in}}`, independently for every head.

    `forward(x, frozen=True)` uses detached weights: the gradient reaches `x` (an action) but not the ensemble.
    """

    def __init__(self, heads: int, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__()
        self.heads = heads
        self._activation = _FUNCTIONS[_known(activation)]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            self.weights.append(nn.Parameter(torch.empty(heads, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(heads, 1, fan_out).uniform_(-bound, bound)))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Every head's output for every input."""
        hidden = x.reshape(-1, x.shape[-1]).expand(self.heads, -1, -1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            hidden = _affine(hidden, weight, bias)
            if index < last:
                hidden = self._activation(hidden)
        outputs = hidden.shape[-1]
        shape = [self.heads, *x.shape[:-1]]
        return hidden.reshape(shape if outputs == 1 else [*shape, outputs])


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if weight.shape[-1] == 1:  # a batched matrix-vector product is several times slower on CPU than this
        return (x * weight.transpose(1, 2)).sum(-1, keepdim=True) + bias
    return torch.baddbmm(bias, x, weight)


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise unknown("activation (model.activation)", activation, ACTIVATIONS)
    return activation

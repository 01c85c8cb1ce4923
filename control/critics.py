"""Critics: networks from states (and actions) to values, one or many heads, with or without a spread."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from unirl.control.batch_norm import RenormMLP
from unirl.control.networks import MLP, ValueMLP, hidden_sizes, orthogonal
from unirl.domain import QSpec, ValueSpec


class Estimate(NamedTuple):
    """Values [heads, ...] (or [...]), and their predicted standard deviations where the critic predicts them."""

    mean: Tensor
    std: Tensor | None = None


class SpreadMLP(MLP):
    """Layers that end in a mean and a standard deviation softplus(.), [..., I] -> two of [...], or [heads, ...]."""

    def estimate(self, x: Tensor, frozen: bool = False) -> Estimate:
        """Mean and standard deviation of every input."""
        mean, raw = super().forward(x, frozen).unbind(-1)
        return Estimate(mean, F.softplus(raw))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """The mean alone."""
        return self.estimate(x, frozen).mean


class AtomsMLP(MLP):
    """Layers whose outputs count as further heads: [..., I] -> [heads * atoms, ...], atom by atom."""

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Every atom of every head."""
        return super().forward(x, frozen).movedim(-1, 1).flatten(0, 1)


def q_network(spec: QSpec, observation_size: int, choices: int, discrete: bool, model: Mapping[str, Any]) -> MLP:
    """The action-value critic of a specification: of an observation and an action, or of all choices at once."""
    options = _options(spec, model) | {"heads": spec.heads}
    if discrete:
        return MLP([observation_size, *_hidden(model), choices], **options)
    inputs = [observation_size + choices, *_hidden(model)]
    if spec.batch_norm:
        return RenormMLP([*inputs, 1], **options)
    if spec.atoms > 1:
        return AtomsMLP([*inputs, spec.atoms], **options)
    return SpreadMLP([*inputs, 2], **options) if spec.std else ValueMLP([*inputs, 1], **options)


def value_network(spec: ValueSpec, observation_size: int, model: Mapping[str, Any]) -> MLP:
    """The state-value critic of a specification, with orthogonal weights."""
    options = _options(spec, model) | {"heads": spec.heads if spec.heads > 1 else None}
    sizes = [observation_size, *_hidden(model)]
    if spec.std:
        return orthogonal(SpreadMLP([*sizes, 2], **options), output_gain=1.0)
    return orthogonal(ValueMLP([*sizes, 1], **options), output_gain=1.0)


def estimate(critic: nn.Module, x: Tensor, frozen: bool = False) -> Estimate:
    """What a critic says, with its spread if it has one."""
    if isinstance(critic, SpreadMLP):
        return critic.estimate(x, frozen)
    return Estimate(critic(x, frozen))


def dropping_layers(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that drop units or normalise over the batch while scoring, left in evaluation mode."""
    layers = [module for module in network.modules() if isinstance(module, MLP)]
    found: list[nn.Module] = [layer for layer in layers if layer.dropout > 0 or isinstance(layer, RenormMLP)]
    found += [module for module in network.modules() if isinstance(module, nn.Dropout)]
    return [module.eval() for module in found]


def _hidden(model: Mapping[str, Any]) -> list[int]:
    return hidden_sizes(model, "critic_hidden" if model.get("critic_hidden") else "hidden")


def _options(spec: QSpec | ValueSpec, model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "activation": model.get("activation", "relu"),
        "half": bool(model.get("half", False)),
        "layer_norm": spec.layer_norm,
        "dropout": spec.dropout,
    }

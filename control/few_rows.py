"""Acting on a few observations at a time without torch, whose cost per operation would be most of an environment step.

Between two steps of a simulator nothing of torch is in the processor's caches, and drawing one action with it takes
about as long as the simulator. Networks are evaluated by numpy on the same memory, with the formulas of
`unirl.control.distributions`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from torch import Tensor, nn

from unirl.control.acting import Choice
from unirl.control.envs import Array
from unirl.control.networks import MLP
from unirl.control.policies import GaussianPolicy, TanhGaussianPolicy

FEW = 4  # rows; with more, torch's cost per operation is shared by enough of them
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": lambda x: np.maximum(x, 0.0), "tanh": np.tanh}
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def can_act_on_few_rows(policy: nn.Module) -> TypeGuard[GaussianPolicy | TanhGaussianPolicy]:
    """Whether `FewRowsActor` knows the policy: Gaussian or squashed Gaussian, relu or tanh, not on a GPU."""
    if isinstance(policy, GaussianPolicy):
        network = policy.mean
    elif isinstance(policy, TanhGaussianPolicy):
        network = policy.network
    else:
        return False
    plain = network.activation in _ACTIVATIONS and not network.norms
    return plain and network.weights[0].device.type == "cpu"


@dataclass(frozen=True)
class FewRowsActor:
    """Samples from the policy as `PolicyActor` does, with noise from a numpy generator."""

    policy: GaussianPolicy | TanhGaussianPolicy
    rng: np.random.Generator

    def __call__(self, observation: Array, rows: Array) -> Choice:
        """One sample per observation, with its log-density."""
        if isinstance(self.policy, GaussianPolicy):
            mean, log_std = _outputs(self.policy.mean, observation), _view(self.policy.log_std)
            action, logp = self._draw(mean, log_std)
            return Choice(action, logp)
        mean, log_std = np.split(_outputs(self.policy.network, observation), 2, axis=-1)
        raw, logp = self._draw(mean, np.clip(log_std, *self.policy.log_std_range))
        slope = 2.0 * (math.log(2.0) - raw - np.logaddexp(0.0, -2.0 * raw))  # log(1 - tanh(raw)^2)
        return Choice(np.tanh(raw), (logp - slope.sum(-1)).astype(np.float32), raw)

    def _draw(self, mean: Array, log_std: Array) -> tuple[Array, Array]:
        noise = self.rng.standard_normal(mean.shape, dtype=np.float32)
        logp = (-0.5 * noise * noise - log_std - np.float32(_HALF_LOG_2PI)).sum(-1)
        return mean + np.exp(log_std) * noise, logp


def _outputs(network: MLP, x: Array) -> Array:
    function = _ACTIVATIONS[network.activation]
    layers = network.layers
    for weight, bias in layers[:-1]:
        x = function(x @ _view(weight) + _view(bias))
    weight, bias = layers[-1]
    outputs: Array = x @ _view(weight) + _view(bias)
    return outputs


def _view(parameter: Tensor) -> Array:
    """The parameter's own memory."""
    array: Array = parameter.detach().numpy()
    return array

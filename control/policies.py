"""Policies: networks from observations to an action distribution."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unirl.control.decision_transformer import DEFAULTS, DecisionTransformer
from unirl.control.distributions import Categorical, Deterministic, Distribution, Gaussian, TanhGaussian
from unirl.control.envs import ActionSpace
from unirl.control.greedy import GreedyPolicy
from unirl.control.mixture import TanhGaussianMixture
from unirl.control.networks import MLP, hidden_sizes, orthogonal
from unirl.control.symphony import SymphonyPolicy
from unirl.errors import UserError, unknown

_LOG_STD_RANGE = (-20.0, 2.0)  # SAC
_BOUNDED_LOG_STD_RANGE = (-5.0, 2.0)  # IQL


class GaussianPolicy(nn.Module):
    """Unbounded mean from an MLP and a state-independent log standard deviation (PPO as in CleanRL and SB3).

    The environment gets the action clipped to its bounds; log-probabilities are of the unclipped action.
    """

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.mean = orthogonal(_network(observation_size, actions.size, model), output_gain=0.01)
        self.log_std = nn.Parameter(torch.full((actions.size,), float(model.get("log_std_start", 0.0))))

    def forward(self, observation: Tensor) -> Gaussian:
        """pi(. | observation)."""
        return Gaussian(self.mean(observation), self.log_std)


class BoundedGaussianPolicy(nn.Module):
    """Gaussian whose mean is squashed into the action range, with a state-independent log standard deviation.

    For weighted regression on recorded actions: actions at the bounds keep a finite density, unlike under a
    squashed Gaussian. Log standard deviation within `log_std_range`, [-5, 2]. Source: Kostrikov et al. 2021 (IQL).
    """

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.mean = _network(observation_size, actions.size, model)
        self.log_std = nn.Parameter(torch.full((actions.size,), float(model.get("log_std_start", 0.0))))
        self.log_std_range = _log_std_range(model, _BOUNDED_LOG_STD_RANGE)

    def forward(self, observation: Tensor) -> Gaussian:
        """pi(. | observation)."""
        return Gaussian(torch.tanh(self.mean(observation)), self.log_std.clamp(*self.log_std_range))


class TanhGaussianPolicy(nn.Module):
    """Squashed Gaussian with state-dependent log standard deviation, clipped to `log_std_range`, [-20, 2] (SAC).

    It starts near `log_std_start`, which the last layer's bias gains.
    """

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = _network(observation_size, 2 * actions.size, model)
        self.log_std_range = _log_std_range(model, _LOG_STD_RANGE)
        with torch.no_grad():
            self.network.biases[-1][..., actions.size :] += float(model.get("log_std_start", 0.0))

    def forward(self, observation: Tensor) -> TanhGaussian:
        """pi(. | observation)."""
        mean, log_std = self.network(observation).chunk(2, -1)
        return TanhGaussian(mean, log_std.clamp(*self.log_std_range))


class GaussianMixturePolicy(nn.Module):
    """Squashed Gaussians of `experts` (4) experts, weighted by a router, all from one network (PMOE [69]).

    Log standard deviations are clipped to `log_std_range`, [-20, 2], and start near `log_std_start`. Raises `UserError`
    unless there is at least one expert.
    """

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.experts, self.size = model.get("experts", 4), actions.size
        if not isinstance(self.experts, int) or self.experts < 1:
            raise UserError(f"policy 'gaussian_mixture': experts is {self.experts!r}; it is a number of at least 1")
        self.network = _network(observation_size, self.experts * (2 * actions.size + 1), model)
        self.log_std_range = _log_std_range(model, _LOG_STD_RANGE)
        with torch.no_grad():
            gaussians = self.network.biases[-1][: -self.experts].unflatten(0, (self.experts, 2 * actions.size))
            gaussians[:, actions.size :] += float(model.get("log_std_start", 0.0))

    def forward(self, observation: Tensor) -> TanhGaussianMixture:
        """pi(. | observation)."""
        outputs = self.network(observation)
        gaussians = outputs[..., : -self.experts].unflatten(-1, (self.experts, 2 * self.size))
        mean, log_std = gaussians.chunk(2, -1)
        return TanhGaussianMixture(outputs[..., -self.experts :], mean, log_std.clamp(*self.log_std_range))


class DeterministicPolicy(nn.Module):
    """tanh of an MLP, with exploration noise `model.exploration_std` (0.1, TD3) when it is sampled."""

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = _network(observation_size, actions.size, model)
        self.noise_std = float(model.get("exploration_std", 0.1))

    def forward(self, observation: Tensor) -> Deterministic:
        """pi(. | observation)."""
        return Deterministic(torch.tanh(self.network(observation)), self.noise_std)


class CategoricalPolicy(nn.Module):
    """Softmax over the environment's choices."""

    def __init__(self, observation_size: int, actions: ActionSpace, model: Mapping[str, Any]) -> None:
        super().__init__()
        self.logits = orthogonal(_network(observation_size, actions.size, model), output_gain=0.01)

    def forward(self, observation: Tensor) -> Categorical:
        """pi(. | observation)."""
        return Categorical.of_logits(self.logits(observation))


POLICIES: dict[str, type[nn.Module]] = {
    "gaussian": GaussianPolicy,
    "bounded_gaussian": BoundedGaussianPolicy,
    "tanh_gaussian": TanhGaussianPolicy,
    "gaussian_mixture": GaussianMixturePolicy,
    "deterministic": DeterministicPolicy,
    "categorical": CategoricalPolicy,
    "greedy": GreedyPolicy,
    "decision_transformer": DecisionTransformer,
    "symphony": SymphonyPolicy,
}
OF_CHOICES = ("categorical", "greedy")
SQUASHED = ("tanh_gaussian", "gaussian_mixture")  # what is recorded includes the value before squashing


OPTIONS = (
    *("layer_norm", "dropout", "gradient_dropout", "exploration_std", "epsilon", "experts"),
    *("log_std_start", "log_std_range"),
)
ASKED = ("condition", "target_return")  # what a policy is asked for, see `unirl.control.asked_return`


def policy_kind(configured: str, required: str | None, actions: ActionSpace, has_q: bool) -> str:
    """Which policy to build: the method's requirement, else the configured one, else what suits the action space.

    `auto` means categorical for choices; for continuous actions tanh_gaussian where there is an action-value critic
    (its gradient must come through a bounded action) and gaussian otherwise.
    Raises `UserError` for an unknown kind or one that does not fit the action space.
    """
    kind = required or configured
    if kind == "auto":
        if actions.discrete:
            return "categorical"
        return "tanh_gaussian" if has_q else "gaussian"
    if kind not in POLICIES:
        raise unknown("policy (model.policy)", kind, [*POLICIES, "auto"])
    if (kind in OF_CHOICES) != actions.discrete:
        needs = "choices" if kind in OF_CHOICES else "continuous actions"
        has = "choices (Discrete)" if actions.discrete else "continuous actions (Box)"
        raise UserError(f"policy '{kind}' needs an environment with {needs}; this one has {has}")
    if kind == "greedy" and not has_q:
        raise UserError("policy 'greedy' chooses by an action-value critic, which the method asks for, not the model")
    return kind


def make_policy(
    kind: str, observation_size: int, actions: ActionSpace, model: Mapping[str, Any], options: Mapping[str, Any]
) -> nn.Module:
    """A freshly initialised policy of a kind that `policy_kind` returned.

    `model`: the networks, as configured; `options`: what the method asks of its policy. Raises `UserError` for an
    option that there is not.
    """
    for option in options:
        known = (*OPTIONS, *ASKED, *(DEFAULTS if kind == "decision_transformer" else ()))
        if option not in known:
            raise unknown("option of a method's policy", option, known)
    return POLICIES[kind](observation_size, actions, {**model, **options})


def distribution(policy: nn.Module, observation: Tensor) -> Distribution:
    """pi(. | observation), typed."""
    made: Distribution = policy(observation)
    return made


def _log_std_range(model: Mapping[str, Any], usual: tuple[float, float]) -> tuple[float, float]:
    """The limits of log standard deviations; raises `UserError` unless they are two ascending numbers."""
    match model.get("log_std_range", usual):
        case [int() | float() as low, int() | float() as high] if low < high:
            return float(low), float(high)
        case given:
            raise UserError(f"method.policy.log_std_range is {given!r}; give two ascending numbers such as [-20, 2]")


def _network(observation_size: int, outputs: int, model: Mapping[str, Any]) -> MLP:
    sizes = [observation_size, *hidden_sizes(model), outputs]
    return MLP(
        sizes,
        model.get("activation", "relu"),
        half=bool(model.get("half", False)),
        layer_norm=bool(model.get("layer_norm", False)),
        dropout=float(model.get("dropout", 0.0)),
    )

"""Action distributions of the control domain, over normalised actions."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

_LOG_2 = math.log(2.0)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_LARGEST_SQUASHED = 1.0 - 1e-6  # atanh of a recorded action at the bound would be infinite


class Sample(NamedTuple):
    """A sampled action [..., A] (choices: [...]), its log-density [...], and its value before squashing if squashed."""

    action: Tensor
    logp: Tensor
    raw: Tensor | None = None


class Distribution(Protocol):
    """What the domain needs of pi(. | s) at a tensor of observations with leading shape [...]."""

    def log_prob(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Log-density of recorded actions, [...]; `raw` is the pre-squash value where it was recorded."""
        ...

    def entropy(self) -> Tensor | None:
        """Entropy in nats, [...], or None where there is no closed form."""
        ...

    def rsample(self, generator: torch.Generator | None = None) -> Sample:
        """A fresh action, differentiable in the policy where it is continuous, and its log-density."""
        ...

    def sample(self, generator: torch.Generator | None = None) -> Sample:
        """An action to execute, without gradients."""
        ...

    def mode(self) -> Tensor:
        """The action without randomness."""
        ...

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) of every observation, [...], in closed form."""
        ...

    def geometric_mixture(self, other: Self, weight: float) -> Self:
        """The normalised self^(1 - weight) * other^weight."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Diagonal Gaussian over unbounded actions: `mean` and `log_std` are [..., A] (`log_std` may broadcast)."""

    mean: Tensor
    log_std: Tensor

    def log_prob_parts(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Log-density of each dimension, [..., A]."""
        standard = (action - self.mean) * torch.exp(-self.log_std)
        return -0.5 * standard.square() - self.log_std - _HALF_LOG_2PI

    def log_prob(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Sum over dimensions of log N(action; mean, std)."""
        return self.log_prob_parts(action).sum(-1)

    def entropy(self) -> Tensor:
        """Sum over dimensions of log_std + (1 + log 2 pi) / 2."""
        return (self.log_std + (0.5 + _HALF_LOG_2PI)).sum(-1).expand(self.mean.shape[:-1])

    def rsample(self, generator: torch.Generator | None = None) -> Sample:
        """The action mean + std * noise, and its log-density."""
        noise = _noise(self.mean, generator)
        action = self.mean + self.log_std.exp() * noise
        return Sample(action, (-0.5 * noise.square() - self.log_std - _HALF_LOG_2PI).sum(-1))

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Sample:
        """The same without gradients."""
        return self.rsample(generator)

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def kl(self, other: "Gaussian") -> Tensor:
        r"""Sum of :math:`\log(\sigma_2/\sigma_1) + (\sigma_1^2 + (\mu_1-\mu_2)^2) / (2\sigma_2^2) - 1/2`."""
        return _gaussian_kl(self.mean, self.log_std, other.mean, other.log_std)

    def geometric_mixture(self, other: "Gaussian", weight: float) -> "Gaussian":
        """Gaussian whose precision is the weighted sum of precisions and whose mean is precision-weighted."""
        return Gaussian(*_gaussian_mixture(self.mean, self.log_std, other.mean, other.log_std, weight))


@dataclass(frozen=True)
class TanhGaussian:
    r"""The action is tanh(u), u from a diagonal Gaussian of `mean` and `log_std`, both [..., A].

    .. math:: \log\pi(a) = \sum_j \log N(u_j; \mu_j, \sigma_j) - 2(\log 2 - u_j - \mathrm{softplus}(-2 u_j))

    The last term is log(1 - tanh(u)^2) in a form that neither overflows nor cancels. Where only the action was
    recorded, u = atanh(a) with |a| at most 1 - 1e-6. Source: Haarnoja et al. 2018 (SAC).
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Log-density of the squashed action; exact where `raw` is given."""
        if raw is None:
            raw = torch.atanh(action.clamp(-_LARGEST_SQUASHED, _LARGEST_SQUASHED))
        return self._log_prob((raw - self.mean) * torch.exp(-self.log_std), raw)

    def log_prob_parts(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Log-density of each dimension of the squashed action, [..., A]."""
        if raw is None:
            raw = torch.atanh(action.clamp(-_LARGEST_SQUASHED, _LARGEST_SQUASHED))
        gaussian = Gaussian(self.mean, self.log_std).log_prob_parts(raw)
        return gaussian + 2.0 * (raw + F.softplus(-2.0 * raw)) - 2.0 * _LOG_2

    def entropy(self) -> None:
        """No closed form."""
        return

    def rsample(self, generator: torch.Generator | None = None) -> Sample:
        """tanh(mean + std * noise), and its log-density."""
        noise = _noise(self.mean, generator)
        raw = torch.addcmul(self.mean, self.log_std.exp(), noise)
        return Sample(torch.tanh(raw), self._log_prob(noise, raw), raw)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Sample:
        """The same without gradients."""
        return self.rsample(generator)

    def mode(self) -> Tensor:
        """tanh(mean): the median, which is what evaluation of SAC uses."""
        return torch.tanh(self.mean)

    def kl(self, other: "TanhGaussian") -> Tensor:
        """KL of the Gaussians before squashing: a bijection leaves it unchanged."""
        return _gaussian_kl(self.mean, self.log_std, other.mean, other.log_std)

    def geometric_mixture(self, other: "TanhGaussian", weight: float) -> "TanhGaussian":
        """Mixture of the Gaussians before squashing: both densities carry the same Jacobian."""
        return TanhGaussian(*_gaussian_mixture(self.mean, self.log_std, other.mean, other.log_std, weight))

    def _log_prob(self, standard: Tensor, raw: Tensor) -> Tensor:
        gaussian = -0.5 * standard.square() - self.log_std
        log_slope = raw + F.softplus(-2.0 * raw)
        return (gaussian + 2.0 * log_slope).sum(-1) - (_HALF_LOG_2PI + 2.0 * _LOG_2) * raw.shape[-1]


@dataclass(frozen=True)
class Deterministic:
    """A point `mean` in [-1, 1]^A with Gaussian exploration noise of `noise_std`, clipped to the bounds.

    Its "log-probability" is -||a - mean||^2: a Gaussian of fixed variance without its constant, which is what
    imitation-type objectives use for deterministic policies (Hejna et al. 2024, CPL).
    """

    mean: Tensor
    noise_std: float

    def log_prob(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Minus the squared distance."""
        return -(action - self.mean).square().sum(-1)

    def entropy(self) -> Tensor:
        """Zero: constant in the policy."""
        return self.mean.new_zeros(self.mean.shape[:-1])

    def rsample(self, generator: torch.Generator | None = None) -> Sample:
        """The mean itself (no exploration noise), at squared distance zero."""
        return Sample(self.mean, self.mean.new_zeros(self.mean.shape[:-1]))

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Sample:
        """The mean with exploration noise."""
        action = (self.mean + self.noise_std * _noise(self.mean, generator)).clamp(-1.0, 1.0)
        return Sample(action, self.log_prob(action))

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def kl(self, other: "Deterministic") -> Tensor:
        """Squared distance of the means: the KL of the Gaussians that `log_prob` stands for (variance 1/2)."""
        return (self.mean - other.mean).square().sum(-1)

    def geometric_mixture(self, other: "Deterministic", weight: float) -> "Deterministic":
        """Interpolated mean (equal variances)."""
        return Deterministic(torch.lerp(self.mean, other.mean, weight), self.noise_std)


@dataclass(frozen=True)
class Categorical:
    """A choice among A actions; `log_probs` is the normalised [..., A]. Actions are integers [...]."""

    log_probs: Tensor

    @classmethod
    def of_logits(cls, logits: Tensor) -> "Categorical":
        """Normalise the logits."""
        return cls(torch.log_softmax(logits, -1))

    @property
    def probs(self) -> Tensor:
        """Probabilities, [..., A]."""
        return self.log_probs.exp()

    def log_prob(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Log-probability of the recorded choices."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """-sum p log p."""
        return -(self.probs * self.log_probs).sum(-1)

    def rsample(self, generator: torch.Generator | None = None) -> Sample:
        """A choice and its log-probability (differentiable in the log-probability only)."""
        with torch.no_grad():
            flat = self.probs.reshape(-1, self.log_probs.shape[-1])
            action = torch.multinomial(flat, 1, generator=generator).reshape(self.log_probs.shape[:-1])
        return Sample(action, self.log_prob(action))

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Sample:
        """The same without gradients."""
        return self.rsample(generator)

    def mode(self) -> Tensor:
        """The most probable choice."""
        return self.log_probs.argmax(-1)

    def kl(self, other: "Categorical") -> Tensor:
        """The sum of p (log p - log q)."""
        return (self.probs * (self.log_probs - other.log_probs)).sum(-1)

    def geometric_mixture(self, other: "Categorical", weight: float) -> "Categorical":
        """Interpolated logits, normalised."""
        return Categorical.of_logits(torch.lerp(self.log_probs, other.log_probs, weight))


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    ratio = torch.exp(2.0 * (log_std - other_log_std))
    distance = ((mean - other_mean) * torch.exp(-other_log_std)).square()
    return (other_log_std - log_std + 0.5 * (ratio + distance - 1.0)).sum(-1)


def _gaussian_mixture(
    mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    own = (1.0 - weight) * torch.exp(-2.0 * log_std)
    other = weight * torch.exp(-2.0 * other_log_std)
    precision = own + other
    return (own * mean + other * other_mean) / precision, -0.5 * precision.log()

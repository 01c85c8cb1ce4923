"""Several squashed Gaussians, one of which acts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.control.distributions import Sample, TanhGaussian
from unirl.errors import UserError


@dataclass(frozen=True)
class TanhGaussianMixture:
    r"""pi(a) = sum_k w_k TanhGaussian_k(a), w = softmax(`logits`) [..., K]; `mean`, `log_std` are [..., K, A].

    An expert k is drawn from w, then its action. Source: PMOE [69].
    """

    logits: Tensor
    mean: Tensor
    log_std: Tensor

    @property
    def weights(self) -> Tensor:
        """w, [..., K]."""
        return self.logits.softmax(-1)

    def log_prob(self, action: Tensor, raw: Tensor | None = None) -> Tensor:
        """Log-density of the mixture, [...]."""
        return self._mixed(action[..., None, :], None if raw is None else raw[..., None, :], self.logits)

    def entropy(self) -> None:
        """No closed form."""
        return

    def experts(self, generator: torch.Generator | None = None) -> tuple[Sample, Tensor]:
        """One action of each expert, [..., K, A], with the mixture's log-density of it, and its own, [..., K] each.

        The mixture's weights are constants here: what is learned from these actions changes the experts alone.
        """
        own = self._components.rsample(generator)
        assert own.raw is not None
        each = own.action[..., :, None, :], own.raw[..., :, None, :]  # every action under every expert, [..., K, K]
        logp = self._mixed(*each, self.logits.detach()[..., None, :])
        return own._replace(logp=logp), own.logp

    def pick(self, experts: Sample, generator: torch.Generator | None = None) -> Sample:
        """The action of one expert, drawn from w."""
        chosen = torch.zeros(self.logits.shape[:-1], dtype=torch.long, device=self.logits.device)
        if self.logits.shape[-1] > 1:
            flat = self.weights.detach().reshape(-1, self.logits.shape[-1])
            chosen = torch.multinomial(flat, 1, generator=generator).reshape(chosen.shape)
        assert experts.raw is not None
        action, raw = (_taken(values, chosen) for values in (experts.action, experts.raw))
        return Sample(action, experts.logp.gather(-1, chosen[..., None]).squeeze(-1), raw)

    def rsample(self, generator: torch.Generator | None = None) -> Sample:
        """An action, differentiable in the expert it came from, and the mixture's log-density."""
        return self.pick(self.experts(generator)[0], generator)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> Sample:
        """The same without gradients."""
        return self.rsample(generator)

    def mode(self) -> Tensor:
        """tanh(mean) of the expert with the largest weight."""
        return torch.tanh(_taken(self.mean, self.logits.argmax(-1)))

    def kl(self, other: "TanhGaussianMixture") -> Tensor:
        """No closed form: raises `UserError`."""
        raise UserError("the divergence of two mixtures has no closed form; use a sampled estimator")

    def geometric_mixture(self, other: "TanhGaussianMixture", weight: float) -> "TanhGaussianMixture":
        """No closed form: raises `UserError`."""
        raise UserError("the geometric mixture of two mixtures has no closed form; use another policy")

    @property
    def _components(self) -> TanhGaussian:
        return TanhGaussian(self.mean, self.log_std)

    def _mixed(self, action: Tensor, raw: Tensor | None, logits: Tensor) -> Tensor:
        """Log-density of actions [..., K or 1, A] under the mixture with these weights: [...], or [..., K] of each."""
        components = self._components
        if action.dim() > self.mean.dim():  # (every expert's action under every expert)
            components = TanhGaussian(self.mean[..., None, :, :], self.log_std[..., None, :, :])
        return torch.logsumexp(logits.log_softmax(-1) + components.log_prob(action, raw), -1)


def _taken(values: Tensor, chosen: Tensor) -> Tensor:
    """The chosen expert's vector: [..., K, A] and [...] -> [..., A]."""
    index = chosen[..., None, None].expand(*chosen.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)

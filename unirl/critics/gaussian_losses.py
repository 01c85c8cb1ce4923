"""Regression of a Gaussian on targets: how a critic's mean and spread are fitted."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unirl.critics.returns import GaussianReturns
from unirl.errors import UserError, unknown

VARIANTS = ("paper", "released")
_EPS = 0.1  # keeps a vanishing spread from blowing up the gradients
_CLIP = 3.0  # sampled targets stay within so many running spreads of the mean
_HUBER = 50.0
_SCALES = (0.1, 10.0)


class VarianceScaled:
    r"""The mean on the expected target, the spread on a clipped sample, both scaled by the size of the spread.

    With running averages b of sigma and omega of sigma^2 over masked decisions, and C = Q + clip(z - Q, +-3 b), the
    gradients for every head and decision are

    .. math:: \frac{\omega}{\sigma^2 + \epsilon} (Q - y)\, \nabla Q
        - \frac{\omega}{\sigma^3 + \epsilon} \big((C - Q)^2 - \sigma^2\big) \nabla\sigma, \qquad \epsilon = 0.1

    so that the step of the mean does not depend on the scale of rewards. variant "released" is the authors' code:
    rho {H(Q - y) + sigma sg[(sigma^2 - H(C - Q)) / (sigma + .1)]} with rho = clip(b^2 / (sigma^2 + .1), .1, 10) and
    the Huber loss H of width 50, which is half the square inside: its spread settles at sigma^2 = E[(C - Q)^2] / 2.

    rate: how fast the running averages move, .005; they start at the first batch's mean and move with every call.
    Source: DSAC-T [180] (Duan et al. 2025).
    """

    needs_sample = True

    def __init__(self, variant: str = "paper", rate: float = 0.005) -> None:
        if variant not in VARIANTS:
            raise unknown("variant of a variance-scaled critic", str(variant), VARIANTS)
        if not 0 < rate <= 1:
            raise UserError(f"rate of a variance-scaled critic is {rate}; it lies above 0 and is at most 1")
        self.variant, self.rate = variant, rate
        self.spread: Tensor | None = None  # b, [heads, 1, 1] or [1, 1]
        self.variance: Tensor | None = None  # omega

    def __call__(self, predicted: GaussianReturns, expected: Tensor, sampled: Tensor, mask: Tensor) -> Tensor:
        """The loss of the prediction [..., N, T] given targets [N, T]; the running averages move first."""
        center, sigma = predicted.center, predicted.spread
        held = sigma.detach()
        self.spread = self._moved(self.spread, held, mask)
        self.variance = self._moved(self.variance, held.square(), mask)
        reach = _CLIP * self.spread
        surprise = torch.minimum(torch.maximum(sampled - center.detach(), -reach), reach)  # C - Q
        if self.variant == "released":
            scale = (self.spread.square() / (held.square() + _EPS)).clamp(*_SCALES)
            excess = (held.square() - _huber(surprise)) / (held + _EPS)
            return scale * (_huber(center - expected) + sigma * excess)
        of_center = self.variance / (held.square() + _EPS)
        of_spread = self.variance / (held**3 + _EPS) * (held.square() - surprise.square())
        return 0.5 * of_center * (center - expected).square() + of_spread * sigma

    def _moved(self, average: Tensor | None, values: Tensor, mask: Tensor) -> Tensor:
        """A running average after this batch's masked mean, apart for every head."""
        now = torch.where(mask, values, 0).sum((-2, -1), keepdim=True) / mask.sum().clamp(min=1)
        return now if average is None else average.to(now).lerp(now, self.rate)

    def state_dict(self) -> dict[str, Any]:
        """The running averages."""
        return {"spread": self.spread, "variance": self.variance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.spread, self.variance = state["spread"], state["variance"]


class LikelihoodLoss:
    r"""Negative log-likelihood of the expected target under the prediction.

    .. math:: \ell = \mathrm{sg}(\sigma)^{2 s} \Big[\frac{(y - \mu)^2}{2 \sigma^2} + \log\sigma\Big]

    stabilize: s, 0 is the likelihood itself; 1/2 keeps decisions with a large spread from being given up
        (Seitzer et al. 2022). `floor`: the smallest spread. Source: STAC [186].
    """

    needs_sample = False

    def __init__(self, stabilize: float = 0.0, floor: float = 1e-3) -> None:
        self.stabilize, self.floor = stabilize, floor

    def __call__(self, predicted: GaussianReturns, expected: Tensor, sampled: Tensor, mask: Tensor) -> Tensor:
        """The loss of the prediction [..., N, T] given the expected target [N, T]."""
        sigma = predicted.spread.clamp(min=self.floor)
        loss = (expected - predicted.center).square() / (2 * sigma.square()) + sigma.log()
        return loss if self.stabilize == 0 else sigma.detach() ** (2 * self.stabilize) * loss

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


LOSSES = ("variance_scaled", "nll")


def gaussian_loss(name: str, variant: str, rate: float, stabilize: float) -> VarianceScaled | LikelihoodLoss:
    """The loss called `variance_scaled` or `nll`; raises `UserError` for others."""
    if name not in LOSSES:
        raise unknown("loss of a Gaussian critic", str(name), LOSSES)
    return VarianceScaled(variant, rate) if name == "variance_scaled" else LikelihoodLoss(stabilize)


def _huber(error: Tensor) -> Tensor:
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=_HUBER)

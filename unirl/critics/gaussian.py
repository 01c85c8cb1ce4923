"""Critics that predict a Gaussian: the mean return and its spread."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.gaussian_losses import gaussian_loss
from unirl.critics.heads import Aggregate, check_aggregate, joined
from unirl.critics.q import SoftQ
from unirl.critics.returns import GaussianReturns
from unirl.critics.v import V
from unirl.domain import QSpec, Requirements, ValueSpec
from unirl.registry import register

_NOISE_LIMIT = 3.0  # of the standard noise in a sampled target


@register("critic", "gaussian_q")
class GaussianQ(SoftQ):
    r"""Soft temporal-difference regression of critics N(Q_k, sigma_k^2), the twin with the smaller mean as the target.

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) [\bar Q_j - \alpha \log\pi(a'|s')], \qquad
        z = y + \gamma (1 - \mathrm{terminated})\, \mathrm{clip}(\xi, \pm 3)\, \bar\sigma_j, \quad \xi \sim N(0, 1)

    with j = argmin_k of the means for target "min". "mean", "first" and `{lower: beta, spread: predicted}` (the mean
    less beta spreads) join the means in these ways, and sigma_j is then the spread of the mixture of all heads.

    loss: "variance_scaled" (DSAC-T): Q on y and sigma on z, scaled by running averages of sigma (`variant` "paper" or
        "released", `rate` of the averages); or "nll" (STAC): the Gaussian likelihood of y, so that sigma is the noise
        of the one-step target, with `stabilize` 0 or 1/2. Formulas: `unirl/critics/gaussian_losses.py`.
    heads, gamma, tau, target_policy, coef: as in critic `q`.
    layer_norm, dropout: of the critics' hidden layers.
    seed: of the noise in z.

    `loss` is summed over heads, [N, T], not reduced; the running averages move each time it is evaluated.
    Reads `q_data`, `q_data_std`, `next_q`, `next_q_std` [heads, N, T], `next_logp`, `reward`, `terminated` [N, T] and
    `temperature`. Raises `UserError` for unknown options. Sources: DSAC-T [180], STAC [186].
    """

    def __init__(
        self,
        *,
        heads: int = 2,
        target: Aggregate = "min",
        gamma: float = 0.99,
        tau: float = 0.005,
        target_policy: bool = False,
        loss: str = "variance_scaled",
        variant: str = "paper",
        rate: float = 0.005,
        stabilize: float = 0.0,
        layer_norm: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
        coef: float = 1.0,
    ) -> None:
        check_aggregate(target, "target of critic 'gaussian_q'", predicted=True)
        super().__init__(heads=heads, gamma=gamma, tau=tau, layer_norm=layer_norm, dropout=dropout, coef=coef)
        self.aggregate, self.target_policy = target, target_policy
        self.fit = gaussian_loss(loss, variant, rate, stabilize)
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return (*super().reads, "q_data_std", "next_q_std")

    @property
    def spec(self) -> QSpec:
        """Critics with a spread."""
        return replace(super().spec, std=True)

    def loss(self, batch: Batch) -> Tensor:
        """The regression loss summed over heads, [N, T], not reduced."""
        target = self.target(batch)
        sampled = target + self._noise(batch) if self.fit.needs_sample else target
        predicted = GaussianReturns(batch.q_data, batch.q_data_std)
        per_head = self.fit(predicted, target, sampled, batch.mask)
        return per_head if per_head.dim() == 2 else per_head.sum(0)

    def _noise(self, batch: Batch) -> Tensor:
        """How far a sampled target lies from the expected one, [N, T]; 0 where the mask is and at terminations."""
        mask = batch.mask
        drawn = torch.randn(int(mask.sum()), generator=self._generator).clamp(-_NOISE_LIMIT, _NOISE_LIMIT)
        spread = self._next_returns(batch).spread.detach()
        noise = torch.zeros_like(spread).masked_scatter(mask, drawn.to(spread))
        return torch.where(batch.terminated, 0, self.gamma * noise * spread)

    def _next(self, batch: Batch) -> Tensor:
        value: Tensor = self._next_returns(batch).center - batch.temperature * batch.next_logp
        return value

    def _next_returns(self, batch: Batch) -> GaussianReturns:
        """The heads' Gaussians at the next state as one, [N, T]."""
        returns = GaussianReturns(batch.next_q, batch.next_q_std)
        if self.aggregate == "min":
            return returns.smallest()
        return GaussianReturns(joined(batch, "next_q", self.aggregate), returns.mixture().spread)

    def state_dict(self) -> dict[str, Any]:
        """The running averages and the generator of the noise."""
        return {"fit": self.fit.state_dict(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.fit.load_state_dict(state["fit"])
        self._generator.set_state(state["generator"])


@register("critic", "gaussian_v")
class GaussianV(V):
    r"""A state value with a spread, N(V, sigma^2), fitted to returns in place of PPO's squared error, in any domain.

    loss: "variance_scaled" divides the error of V by sigma^2 and multiplies it by a running average of it, so that
        returns of large variance move the value less than others; targets are samples: V and sigma are both fitted
        to them (`variant`, `rate` as in `gaussian_q`). "nll" is the Gaussian likelihood of the target, with
        `stabilize` 0 or 1/2.
    target, aggregate, layer_norm, dropout, coef: as in critic `v`.

    Reads `value_pred`, `value_pred_std` [N, T] and what the target is made of, `returns` by default; `loss` gives
    [N, T], not reduced. Raises `UserError` for unknown options. Sources: the critics of DSAC-T [180] and STAC [186].
    """

    def __init__(
        self,
        *,
        loss: str = "variance_scaled",
        target: str = "returns",
        aggregate: str = "min",
        variant: str = "paper",
        rate: float = 0.005,
        stabilize: float = 0.0,
        layer_norm: bool = False,
        dropout: float = 0.0,
        coef: float = 1.0,
    ) -> None:
        super().__init__(target=target, aggregate=aggregate, layer_norm=layer_norm, dropout=dropout, coef=coef)
        self.fit = gaussian_loss(loss, variant, rate, stabilize)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return (*super().reads, "value_pred_std")

    def requirements(self) -> Requirements:
        """A state value with a spread."""
        spec = super().requirements().value or ValueSpec()
        return Requirements(value=replace(spec, std=True))

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        target = self.target(batch)
        return self.fit(GaussianReturns(batch.value_pred, batch.value_pred_std), target, target, batch.mask)

    def state_dict(self) -> dict[str, Any]:
        """The running averages."""
        return self.fit.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.fit.load_state_dict(state)

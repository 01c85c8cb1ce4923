"""How strongly a regularizer counts: fixed, scheduled, adapted to a measurement, or learned.

A coefficient answers `value(progress)`, the current strength as a float or a detached scalar. A learned one has
`parameters()` and a dual `loss(batch)`; an adaptive one changes in `update(batch)`, called once per batch after the
policy was updated on it. Those with memory have a non-empty `state_dict`.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.reduce.masked import row_sums
from unirl.registry import register
from unirl.regularizers.kl import estimate


class Coefficient:
    """What every coefficient has; the defaults are those of one that neither learns nor remembers."""

    reads: tuple[str, ...] = ()
    changes = True  # whether the log shows its strength

    def value(self, progress: float) -> float | Tensor:
        """The strength at this fraction of training done."""
        return 1.0

    def parameters(self) -> list[nn.Parameter]:
        """What the dual loss trains."""
        return []

    def loss(self, batch: Batch) -> Tensor | None:
        """The dual loss of a scored batch per decision, [N, T], or None where nothing is learned."""
        return None

    def update(self, batch: Batch) -> None:
        """See the batch that the policy was just updated on."""

    def bind(self, target_entropy: float) -> None:
        """Take the domain's default entropy target where the configuration gave none."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""


@register("coefficient", "fixed")
class Fixed(Coefficient):
    """A constant.

    value: the strength throughout training.
    """

    changes = False

    def __init__(self, *, value: float) -> None:
        self.constant = float(value)

    def value(self, progress: float) -> float:
        """The constant."""
        return self.constant


@register("coefficient", "linear")
class Linear(Coefficient):
    r"""Linear interpolation over training: start + (end - start) progress.

    start, end: strength at progress 0 and 1.
    """

    def __init__(self, *, start: float, end: float) -> None:
        self.start, self.end = float(start), float(end)

    def value(self, progress: float) -> float:
        """The interpolated strength."""
        return self.start + (self.end - self.start) * progress


@register("coefficient", "mirror")
class Mirror(Coefficient):
    r"""Mirror descent's 1/t_k with a step size that falls linearly over training.

    .. math:: c_k = 1/t_k, \qquad t_k = \max(\text{initial}\,(1 - \text{progress}), \text{final})

    initial: step size t at the start, 1 (paper).
    final: the smallest step size; it keeps the coefficient finite (at most 1/final) when progress reaches 1.
    variant: "paper", or "released": the authors' code starts one iteration earlier, t = initial (1 - progress +
        1/iterations),
        which is 1 + 1/iterations times the paper's at the start; it needs `iterations`, their total number.

    Raises `UserError` for step sizes that are not positive, an unknown variant, and "released" without `iterations`.
    Source: MDPO [64] (Tomar et al. 2022).
    """

    def __init__(
        self, *, initial: float = 1.0, final: float = 0.01, variant: str = "paper", iterations: int | None = None
    ) -> None:
        if variant not in ("paper", "released"):
            raise unknown("variant of coefficient 'mirror'", str(variant), ("paper", "released"))
        if initial <= 0 or final <= 0:
            raise UserError(f"coefficient 'mirror': step sizes must be positive, not {initial} and {final}")
        if variant == "released" and not iterations:
            raise UserError("coefficient 'mirror': variant=released needs iterations, their total number")
        self.initial, self.final = float(initial), float(final)
        self.ahead = 1 / iterations if variant == "released" and iterations else 0.0

    def value(self, progress: float) -> float:
        """1/t_k."""
        return 1 / max(self.initial * (1 - progress + self.ahead), self.final)


@register("coefficient", "auto")
class Auto(Coefficient):
    r"""A temperature learned by dual ascent so that the policy's entropy stays near a target.

    .. math:: L_t(\alpha) = -\log\alpha \cdot \mathrm{sg}\big(\log\pi(a_\theta|s_t) + \bar H\big)

    alpha rises where the entropy -log pi is below the target. The parameter is log alpha.

    initial: alpha at the start.
    target: the entropy to hold, nats per decision; None takes the domain's default (minus the action dimension in
        control).
    estimator: "sample" reads `sample_logp`; "exact" reads `entropy` and puts -entropy in place of log pi.
    variant: "released" is the loss above, used in most implementations; "paper" has alpha in place of log alpha,
        whose gradient in log alpha is alpha times as large.

    The loss is per decision, [N, T], not reduced. Raises `UserError` for a non-positive
    start, unknown options, and for a loss without any target. Source: SAC [189] (Haarnoja et al. 2018).
    """

    def __init__(
        self,
        *,
        initial: float = 1.0,
        target: float | None = None,
        estimator: str = "sample",
        variant: str = "released",
    ) -> None:
        if initial <= 0:
            raise UserError(f"coefficient 'auto': initial is {initial}; it must be positive")
        if estimator not in ("sample", "exact"):
            raise unknown("estimator of coefficient 'auto'", str(estimator), ("sample", "exact"))
        if variant not in ("paper", "released"):
            raise unknown("variant of coefficient 'auto'", str(variant), ("paper", "released"))
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial)))
        self.target, self.estimator, self.variant = target, estimator, variant

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The field this needs."""
        return ("sample_logp",) if self.estimator == "sample" else ("entropy",)

    def value(self, progress: float) -> Tensor:
        """alpha, detached."""
        return self.log_alpha.detach().exp()

    def parameters(self) -> list[nn.Parameter]:
        """The logarithm of alpha."""
        return [self.log_alpha]

    def bind(self, target_entropy: float) -> None:
        """Take the domain's default target unless one was given."""
        if self.target is None:
            self.target = float(target_entropy)

    def loss(self, batch: Batch) -> Tensor:
        """The dual loss per decision, [N, T]; its only gradient is that of log alpha."""
        if self.target is None:
            raise UserError("coefficient 'auto': no entropy target; give target in nats per decision")
        logp: Tensor = batch.sample_logp if self.estimator == "sample" else -batch.entropy
        surplus = logp.detach() + self.target
        return -(self.log_alpha if self.variant == "released" else self.log_alpha.exp()) * surplus

    def state_dict(self) -> dict[str, Any]:
        """The logarithm of alpha."""
        return {"log_alpha": self.log_alpha.detach().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore log alpha."""
        with torch.no_grad():
            self.log_alpha.copy_(torch.as_tensor(state["log_alpha"]))


@register("coefficient", "adaptive_kl")
class AdaptiveKL(Coefficient):
    r"""A coefficient that a proportional controller moves until a measured KL divergence meets its target.

    .. math::

        c \leftarrow c \Big(1 + \mathrm{clip}\big(\tfrac{KL}{\text{target}} - 1, -0.2, 0.2\big)
        \tfrac{N}{\text{horizon}}\Big)

    The divergence is measured on the batch after its update, per row (summed over masked decisions) and averaged over
    the N rows: with `to="old"` KL(old policy || policy) by the k3 estimate e^d - 1 - d, d = log pi - log pi_old,
    because the decisions were sampled from the old policy; with an anchor's name KL(policy || anchor) by the mean of
    log pi - log anchor.

    target: nats per row (6: Ziegler et al.).  initial: the strength at the start (.2).  horizon: rows over which a
    constant relative error of 20% changes the strength by a factor of about e^.2 (10 000).  to: "old" or the name of
    an anchor.

    Reads `logp` and `old_logp` or `anchor_logp.<to>`. Raises `UserError` for a target, horizon or start that is not
    positive.
    Source: Ziegler et al. 2019.
    """

    def __init__(
        self, *, target: float = 6.0, initial: float = 0.2, horizon: float = 10_000.0, to: str = "old"
    ) -> None:
        for name, given in (("target", target), ("initial", initial), ("horizon", horizon)):
            if given <= 0:
                raise UserError(f"coefficient 'adaptive_kl': {name} is {given}; it must be positive")
        self.target, self.horizon, self.to = float(target), float(horizon), to
        self.strength = float(initial)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Fields this needs."""
        return ("logp", "old_logp" if self.to == "old" else f"anchor_logp.{self.to}")

    def value(self, progress: float) -> float:
        """The current strength."""
        return self.strength

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        """One step of the controller."""
        error = float(self._measured(batch)) / self.target - 1
        self.strength *= 1 + min(max(error, -0.2), 0.2) * len(batch) / self.horizon

    def _measured(self, batch: Batch) -> Tensor:
        """Mean over rows of the divergence summed over a row's decisions."""
        if self.to == "old":
            divergence = estimate(batch.old_logp - batch.logp, "k3")
        else:
            divergence = estimate(batch.logp - batch.anchor_logp[self.to], "k1")
        return row_sums(divergence, batch.mask).mean()

    def state_dict(self) -> dict[str, Any]:
        """The current strength."""
        return {"strength": self.strength}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the strength."""
        self.strength = float(state["strength"])

"""A Tsallis divergence from a frozen policy."""

import math
from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Requirements
from unirl.errors import UserError, unknown
from unirl.registry import register

ESTIMATORS = ("sample", "reparameterized")
VARIANTS = ("paper", "released")
LOWEST = math.log(1e-6)  # of the density of an action dimension, variant "released"


@register("regularizer", "tsallis")
@dataclass(frozen=True)
class Tsallis:
    r"""Difference of q-logarithms in place of the log-ratio of a KL divergence.

    .. math::

        R_t = \log_{\tilde q} \pi_\theta(a_t|s_t) - \log_{\tilde q} \pi_{anchor}(a_t|s_t), \qquad
        \log_{\tilde q} x = \frac{x^{1 - \tilde q} - 1}{1 - \tilde q}, \qquad \tilde q = 2 - \text{index}

    index 1 is the plain log-ratio (k1, or the reparameterised KL), index 2 the difference of the probabilities or
    densities themselves. With `to` None the anchor's term is dropped: the negative Tsallis entropy, whose coefficient
    is the `temperature` that soft values read (`v` with target soft_q and `tsallis`). The density is that of the
    whole decision.

    `estimator`: "sample" reads `logp` and `anchor_logp.<to>` of the recorded decision; with `weighted` it is
    multiplied by the importance ratio e^{log pi - log pi_old}, gradient included, which makes value and gradient those
    of the expectation under pi for decisions of the old policy. "reparameterized" reads `sample_logp` and
    `sample_anchor_logp.<to>` of a fresh one and is differentiable through it in both terms; but for index 1 it is for
    densities, as of choices these fields hold expectations, which a q-logarithm may not be taken of.

    Alone, the "sample" estimator is the released on-policy code's and holds the policy near the anchor only through the
    recorded decisions' probabilities: with index 2 its expectation is linear in pi, whose optimum is one choice.
    `weighted` is the paper's term.

    `variant`: "released" follows the authors' off-policy code: q-logarithms of the density of each action dimension,
    none below 1e-6 (where nothing has a gradient), are summed, and the anchor's sum is multiplied by `index`. It reads
    `sample_logp_parts` and `sample_anchor_logp_parts.<to>`, [N, T, A], at index 1 too.

    Gives [N, T]. Raises `UserError` for an unknown estimator or variant, an index outside (0, 2], and options that
    exclude each other. Source: MDPO [64].
    """

    to: str | None = "prev"
    index: float = 2.0
    estimator: str = "reparameterized"
    weighted: bool = False
    variant: str = "paper"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown("variant of regularizer 'tsallis'", str(self.variant), VARIANTS)
        if self.estimator == "sample" and self.variant == "released":
            raise UserError("regularizer 'tsallis': variant=released is for estimator=reparameterized")
        if self.weighted and self.estimator != "sample":
            raise UserError("regularizer 'tsallis': weighted=true is for estimator=sample")
        if self.estimator not in ESTIMATORS:
            raise unknown("estimator of regularizer 'tsallis'", str(self.estimator), ESTIMATORS)
        if not 0 < self.index <= 2:
            raise UserError(f"regularizer 'tsallis': index is {self.index}; it lies in (0, 2], 1 is the KL divergence")

    @property
    def sets_temperature(self) -> bool:
        """Whether its coefficient is the `temperature` that soft values read."""
        return self.to is None

    def requirements(self) -> Requirements:
        """Densities, where a q-logarithm is taken of a fresh decision's."""
        fresh = self.estimator == "reparameterized" and self.variant == "paper"
        return Requirements(densities=fresh and self.index != 1)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        own, anchor = self._fields()
        ratio = ("old_logp",) if self.weighted else ()
        return (own, *ratio) if self.to is None else (own, *ratio, f"{anchor}.{self.to}")

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        own, anchor = self._fields()
        penalty = self._q_log(getattr(batch, own))
        if self.to is not None:
            scale = self.index if self.variant == "released" else 1.0
            penalty = penalty - scale * self._q_log(getattr(batch, anchor)[self.to])
        return (batch.logp - batch.old_logp.detach()).exp() * penalty if self.weighted else penalty

    def _fields(self) -> tuple[str, str]:
        if self.variant == "released":
            return "sample_logp_parts", "sample_anchor_logp_parts"
        return ("logp", "anchor_logp") if self.estimator == "sample" else ("sample_logp", "sample_anchor_logp")

    def _q_log(self, logp: Tensor) -> Tensor:
        """The q-logarithm of e^logp; the exponent 1 - q~ is index - 1."""
        exponent = self.index - 1
        if self.variant == "released":
            logp = logp.clamp(min=LOWEST)
        value = logp if exponent == 0 else (exponent * logp).expm1() / exponent
        return value.sum(-1) if self.variant == "released" else value

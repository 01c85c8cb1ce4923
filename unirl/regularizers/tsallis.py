"""A Tsallis divergence from a frozen policy."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.registry import register

ESTIMATORS = ("sample", "reparameterized")


@register("regularizer", "tsallis")
@dataclass(frozen=True)
class Tsallis:
    r"""Difference of q-logarithms in place of the log-ratio of a KL divergence.

    .. math::

        R_t = \log_{\tilde q} \pi_\theta(a_t|s_t) - \log_{\tilde q} \pi_{anchor}(a_t|s_t), \qquad
        \log_{\tilde q} x = \frac{x^{1 - \tilde q} - 1}{1 - \tilde q}, \qquad \tilde q = 2 - \text{index}

    index 1 is the plain log-ratio (k1, or the reparameterised KL), index 2 the difference of the probabilities or
    densities themselves. With `to` None the anchor's term is dropped: the negative Tsallis entropy. The density is
    that of the whole decision (the released code takes q-logarithms per action dimension).

    `estimator`: "sample" reads `logp` and `anchor_logp.<to>` of the recorded decision; "reparameterized" reads
    `sample_logp` and `sample_anchor_logp.<to>` of a fresh one and is differentiable through it in both terms. Gives
    [N, T]. Raises `UserError` for an unknown estimator and an index outside (0, 2]. Source: MDPO [64].
    """

    to: str | None = "prev"
    index: float = 2.0
    estimator: str = "reparameterized"

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise unknown("estimator of regularizer 'tsallis'", str(self.estimator), ESTIMATORS)
        if not 0 < self.index <= 2:
            raise UserError(f"regularizer 'tsallis': index is {self.index}; it lies in (0, 2], 1 is the KL divergence")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        own, anchor = self._fields()
        return (own,) if self.to is None else (own, f"{anchor}.{self.to}")

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        own, anchor = self._fields()
        penalty = self._q_log(getattr(batch, own))
        return penalty if self.to is None else penalty - self._q_log(getattr(batch, anchor)[self.to])

    def _fields(self) -> tuple[str, str]:
        return ("logp", "anchor_logp") if self.estimator == "sample" else ("sample_logp", "sample_anchor_logp")

    def _q_log(self, logp: Tensor) -> Tensor:
        """The q-logarithm of e^logp; the exponent 1 - q~ is index - 1."""
        exponent = self.index - 1
        return logp if exponent == 0 else (exponent * logp).expm1() / exponent

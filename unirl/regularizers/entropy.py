"""Entropy of the policy."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import unknown
from unirl.registry import register

ESTIMATORS = ("exact", "sample")


@register("regularizer", "entropy")
@dataclass(frozen=True)
class Entropy:
    r"""Minus the policy's entropy, so that a positive coefficient keeps it random.

    .. math:: R_t = -H(\pi_\theta(\cdot|s_t)) \quad\text{or}\quad R_t = \log\pi_\theta(a_\theta|s_t)

    `estimator`: "exact" reads `entropy` (a closed form, or what the domain offers in its place); "sample" reads
    `sample_logp`, the log-probability of the fresh re-parameterised action at which `q` is evaluated (SAC's actor
    loss). Gives [N, T]. Entropy of a density may be negative. Raises `UserError` for an unknown estimator. Sources:
    A3C (Mnih et al. 2016), SAC [189].
    """

    estimator: str = "exact"

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise unknown("estimator of regularizer 'entropy'", str(self.estimator), ESTIMATORS)

    @property
    def reads(self) -> tuple[str, ...]:
        """The field this needs."""
        return ("entropy",) if self.estimator == "exact" else ("sample_logp",)

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        penalty: Tensor = -batch.entropy if self.estimator == "exact" else batch.sample_logp
        return penalty

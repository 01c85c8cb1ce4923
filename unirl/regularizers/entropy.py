"""Entropy of the policy."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.objectives.experts import best_expert, check_variant
from unirl.registry import register

READS = {"exact": ("entropy",), "sample": ("sample_logp",), "experts": ("expert_logp",)}


@register("regularizer", "entropy")
@dataclass(frozen=True)
class Entropy:
    r"""Minus the policy's entropy, so that a positive coefficient keeps it random.

    .. math:: R_t = -H(\pi_\theta(\cdot|s_t)) \quad\text{or}\quad R_t = \log\pi_\theta(a_\theta|s_t)

    `estimator`: "exact" reads `entropy` (a closed form, or what the domain offers in its place); "sample" reads
    `sample_logp`, the log-probability of the fresh re-parameterised action at which `q` is evaluated (SAC's actor
    loss); "experts" reads `expert_logp` [N, T, K], the same of an action of each expert of a mixture, and sums (PMOE
    [69]; with `variant` "released" only the best expert's `expert_own_logp`). Gives [N, T]. Entropy of a density may
    be negative. Raises `UserError` for an unknown estimator or variant. Sources: A3C (Mnih et al. 2016), SAC [189].
    """

    estimator: str = "exact"
    variant: str = "paper"
    sets_temperature = True  # its coefficient is the `temperature` that soft critics read

    def __post_init__(self) -> None:
        if self.estimator not in READS:
            raise unknown("estimator of regularizer 'entropy'", str(self.estimator), READS)
        check_variant(self.variant, "regularizer 'entropy'")
        if self.variant == "released" and self.estimator != "experts":
            raise UserError("regularizer 'entropy': variant=released is for estimator=experts")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("expert_own_logp", "expert_q") if self.variant == "released" else READS[self.estimator]

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        if self.estimator == "experts":
            best_only = self.variant == "released"
            each: Tensor = best_expert(batch) * batch.expert_own_logp if best_only else batch.expert_logp
            return each.sum(-1)
        penalty: Tensor = -batch.entropy if self.estimator == "exact" else batch.sample_logp
        return penalty

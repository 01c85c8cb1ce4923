"""Who of several experts acts."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.objectives.experts import best_expert, check_variant
from unirl.registry import register


@register("regularizer", "router_frequency")
@dataclass(frozen=True)
class RouterFrequency:
    r"""Distance of the router's weights from the expert whose action the critic values most.

    .. math:: R_t = \sum_k (w_k(s_t) - v_k)^2, \qquad v = \mathrm{onehot}(\arg\max_k \min_j Q_j(s_t, a_k))

    At its minimum w_k(s) is how often expert k is best. No gradient passes through the choice of an expert.
    `variant`: "released" takes the mean over experts, as in code of one of the authors. With one expert it is 0.

    Reads `router` [N, T, K], `expert_q` [N, T, K, heads], gives [N, T]. Raises `UserError` for an unknown variant.
    Source: PMOE [69].
    """

    variant: str = "paper"
    reads = ("router", "expert_q")

    def __post_init__(self) -> None:
        check_variant(self.variant, "regularizer 'router_frequency'")

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        squared: Tensor = (batch.router - best_expert(batch)).square()
        return squared.sum(-1) if self.variant == "paper" else squared.mean(-1)

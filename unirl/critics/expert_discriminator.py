"""Training the classifier that tells an expert's rows from others'."""

from torch import Tensor
from torch.nn import functional as F

from unirl.batch import RECORDED as EXPERT
from unirl.batch import Batch
from unirl.domain import Requirements
from unirl.reduce.of_source import share_of, share_of_others
from unirl.registry import register


@register("critic", "expert_discriminator")
class ExpertDiscriminator:
    r"""The logistic loss of an auxiliary model of expertness, with a penalty on steep log-odds c.

    .. math:: \ell = E_{expert}[\log(1 + e^{-c})] + E_{others}[\log(1 + e^{c})] + p\, E[(\lVert\nabla c\rVert - 1)^2]

    At its minimum, without the penalty, c = log d_expert / d_others. of: "states" or "pairs". penalty: p, 10
    (Gulrajani et al. 2017; 0: none). The others are the mixture of source `expert_mix`, or the policy's own rows in a
    hybrid source.

    Reads `model.expert_logit`, with a penalty `model.expert_slope` [N, T], and `source` [N] (2: expert); gives [N, T].
    Source: SMODICE (Ma et al. 2022), after GAIL (Ho & Ermon 2016).
    """

    loss_name = "expert_discriminator"

    def __init__(self, *, of: str = "states", penalty: float = 10.0, coef: float = 1.0) -> None:
        self.of, self.penalty, self.coef = of, penalty, coef

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("model.expert_logit", "source", *(("model.expert_slope",) if self.penalty else ()))

    def requirements(self) -> Requirements:
        """The classifier."""
        return Requirements(models={"expert_discriminator": {"of": self.of}})

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        logit: Tensor = batch.model["expert_logit"]
        loss = F.softplus(-logit) * share_of(batch, EXPERT) + F.softplus(logit) * share_of_others(batch, EXPERT)
        return loss + self.penalty * batch.model["expert_slope"] if self.penalty else loss

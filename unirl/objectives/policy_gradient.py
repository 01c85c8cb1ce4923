"""Policy gradients without clipping: the score function, and the importance-ratio surrogate of mirror descent."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.registry import register


@register("objective", "policy_gradient")
@dataclass(frozen=True)
class PolicyGradient:
    r"""The score-function (REINFORCE) policy gradient.

    .. math:: \ell_t = -A_t \log\pi_\theta(a_t|s_t)

    Unbiased when the decisions were sampled from the current policy. Reads `logp`, `advantage` [N, T], gives [N,
    T]. Works for densities. Source: Williams 1992; A2C.
    """

    level = "decision"
    reads = ("logp", "advantage")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        loss: Tensor = -(batch.logp * batch.advantage.detach())
        return loss


@register("objective", "mdpo")
@dataclass(frozen=True)
class MDPO:
    r"""The unclipped surrogate of mirror-descent policy optimisation.

    .. math:: \ell_t = -r_t A_t, \qquad r_t = e^{\log\pi_\theta - \log\pi_{old}}

    Mirror descent adds (1/t_k) KL(pi_theta || pi_k), which is the regularizer `kl(to="prev", estimator="exact")` (for
    sampled tokens "k3" with `weighted=True`) with the coefficient `mirror`. With that term the exact minimiser for
    one state is pi_k(a) exp(t_k A(a)), normalised. At the first of an iteration's gradient steps the KL has no
    gradient and this one is the policy gradient's, so several steps per iteration are essential. The off-policy form
    is `value_gradient` with `kl(to="prev", estimator="reparameterized")` of coefficient c - lambda and
    `entropy(estimator="sample")` of coefficient lambda.

    Reads `logp`, `old_logp`, `advantage` [N, T], gives [N, T]. Works for densities. Source: MDPO [64] (Tomar et al.
    2022).
    """

    level = "decision"
    reads = ("logp", "old_logp", "advantage")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        loss: Tensor = -(batch.logp - batch.old_logp.detach()).exp() * batch.advantage.detach()
        return loss

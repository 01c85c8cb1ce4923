"""Critics that need no target copy."""

from dataclasses import replace

from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import Aggregate, over_heads
from unirl.critics.q import SoftQ
from unirl.domain import QSpec, Requirements
from unirl.registry import register


@register("critic", "joint_q")
class JointQ(SoftQ):
    r"""Soft temporal-difference regression on the critics' own next value, both values from one pass.

    .. math:: y = r + \gamma (1 - \mathrm{terminated})\,
        \mathrm{sg}\big[\min_k Q_k(s', a') - \alpha \log\pi(a'|s')\big], \qquad \ell = \tfrac12 \sum_k (Q_k(s, a) - y)^2

    Recorded decisions and the policy's next ones are normalised over the batch together, so that the target is not a
    number from another distribution than the one that the layers were fitted to; then no slow copy is needed. An actor
    that follows these critics sees them under running statistics.

    heads, target, gamma, half, coef: as in critic `soft_q`.

    Reads `model.joint_q`, `model.joint_next_q` [N, T, heads], `model.joint_next_logp`, `reward`, `terminated` [N, T]
    and `temperature`. Source: CrossQ (Bhatt et al. 2024).
    """

    def __init__(
        self,
        *,
        heads: int = 2,
        target: Aggregate = "min",
        gamma: float = 0.99,
        half: bool = True,
        coef: float = 1.0,
    ) -> None:
        super().__init__(heads=heads, target=target, gamma=gamma, half=half, coef=coef)

    reads = (  # type: ignore[assignment]
        *("model.joint_q", "model.joint_next_q", "model.joint_next_logp"),
        *("reward", "terminated", "temperature"),
    )

    @property
    def spec(self) -> QSpec:
        """Critics that normalise over the batch, without copies."""
        return replace(super().spec, tau=None, batch_norm=True)

    def requirements(self) -> Requirements:
        """The critics, and the joint pass through them."""
        return super().requirements().and_also(Requirements(models={"joint_pass": {}}))

    def loss(self, batch: Batch) -> Tensor:
        """The squared error summed over heads, [N, T], not reduced."""
        return super().loss(batch.replace(q_data=batch.model["joint_q"].movedim(-1, 0)))

    def _next(self, batch: Batch) -> Tensor:
        following = over_heads(batch.model["joint_next_q"].movedim(-1, 0), self.aggregate)
        value: Tensor = following - batch.temperature * batch.model["joint_next_logp"]
        return value

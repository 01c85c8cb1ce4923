"""A divergence from a reference policy, paid in the reward."""

from dataclasses import dataclass

from unirl.batch import Batch
from unirl.errors import unknown
from unirl.registry import register
from unirl.regularizers.kl import SAMPLED, estimate


@register("reward", "kl_in_reward")
@dataclass(frozen=True)
class KLInReward:
    r"""Every decision pays for its divergence from an anchor.

    .. math:: r_t \leftarrow r_t - \text{coef} \cdot k(\log\pi_{old}(a_t|s_t) - \log\pi_{anchor}(a_t|s_t))

    `estimator`: k1 (the log-ratio itself, unbiased, the usual one), k2 or k3. Without gradient: the penalty acts
    through the advantage, so it counts later consequences too. Reads `reward`, `old_logp`, `anchor_logp.<to>` [N,
    T]; fills `reward` and leaves `score` alone. Raises `UserError` for an unknown estimator. Source: Ziegler et al.
    2019.
    """

    coef: float
    to: str = "ref"
    estimator: str = "k1"

    def __post_init__(self) -> None:
        if self.estimator not in SAMPLED:
            raise unknown("estimator of reward 'kl_in_reward'", str(self.estimator), SAMPLED)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("reward", "old_logp", f"anchor_logp.{self.to}")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `reward` changed."""
        log_ratio = (batch.old_logp - batch.anchor_logp[self.to]).detach()
        return batch.replace(reward=batch.reward - self.coef * estimate(log_ratio, self.estimator) * batch.mask)

"""Rewards from a classifier of expertness, where none were recorded."""

from dataclasses import dataclass

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.registry import register


@register("reward", "expert_ratio")
@dataclass(frozen=True)
class ExpertRatio:
    r"""The reward is how much more often the expert comes by here than the others do.

    .. math:: r_t = \text{scale} \cdot \mathrm{clip}\Big(\log\frac{d_{expert}}{d_{others}},\ \pm\text{clip}\Big)

    The logarithm is `estimate.expert_logit`, of the auxiliary model that critic `expert_discriminator` trains. `scale`:
    SMODICE divides its chi-square divergence by 2, which is scale 2 here. `clip`: 10, beyond which a classifier's
    log-odds say nothing. Fills `reward` [N, T]. Raises `UserError` unless clip > 0. Source: SMODICE (Ma et al. 2022).
    """

    scale: float = 1.0
    clip: float = 10.0
    reads = ("estimate.expert_logit",)

    def __post_init__(self) -> None:
        if self.clip <= 0:
            raise UserError(f"reward 'expert_ratio': clip is {self.clip}; it must be positive")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `reward` filled."""
        return batch.replace(reward=self.scale * batch.estimate["expert_logit"].clamp(-self.clip, self.clip))

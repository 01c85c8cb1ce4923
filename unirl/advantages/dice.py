"""Weights for imitation from the residuals of a dual state value."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.divergences import divergence
from unirl.critics.heads import Aggregate, check_aggregate, over_heads
from unirl.errors import UserError, unknown
from unirl.registry import register

WEIGHTS = ("relu", "analytic")


@register("advantage", "dice_ratio")
@dataclass(frozen=True)
class DiceRatio:
    r"""How much more often the best policy comes by a decision than the data does.

    .. math:: e_t = r_t + \gamma (1 - \mathrm{terminated}_t) \bar V(s_{t+1}) - V(s_t), \qquad
        A_t = \min(w(e_t), \text{max\_weight})

    `weight`: "relu" takes max(e, 0), the released code's; "analytic" the optimum w = max(f'^{-1}(e), 0) of the
    `divergence` ("chi_square": max(e/2 + 1, 0); "kl": e^{e-1}). `online`: V(s') is the value's own, not its target
    copy's. `target` joins the heads of that copy ("min"); those of V(s) are averaged after the weight is taken. With a
    `source` all other rows get 0. To be used with the objective `policy_gradient`: it is then a weighted likelihood,
    never negative.

    Reads `reward`, `terminated` [N, T], `value`, `next_target_value` (or `next_value`) [heads, N, T] or [N, T], and
    `source` [N] where one is given; fills `advantage` [N, T]. Raises `UserError` for an unknown weight or divergence,
    and unless max_weight > 0. Source: O-DICE [61] (Mao et al. 2024).
    """

    weight: str = "relu"
    divergence: str = "chi_square"
    gamma: float = 0.99
    max_weight: float = 100.0
    online: bool = False
    target: Aggregate = "min"
    source: int | None = None

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise unknown("weight of advantage 'dice_ratio'", str(self.weight), WEIGHTS)
        divergence(self.divergence, "advantage 'dice_ratio'")
        check_aggregate(self.target, "target of advantage 'dice_ratio'")
        if self.max_weight <= 0:
            raise UserError(f"advantage 'dice_ratio': max_weight is {self.max_weight}; it must be positive")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        fields = ("reward", "terminated", "value", self._following)
        return fields if self.source is None else (*fields, "source")

    @property
    def _following(self) -> str:
        return "next_value" if self.online else "next_target_value"

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        following = getattr(batch, self._following)
        if not self.online:
            following = over_heads(following, self.target)
        following = torch.where(batch.terminated, 0, following)
        residual: Tensor = (batch.reward + self.gamma * following - batch.value).detach()
        if self.weight == "relu":
            weight = residual.clamp(min=0)
        else:
            weight = divergence(self.divergence, "advantage 'dice_ratio'").ratio(residual)
        weight = weight.clamp(max=self.max_weight)
        counted = batch.mask if self.source is None else batch.mask & (batch.source == self.source)[:, None]
        return batch.replace(advantage=torch.where(counted, weight.mean(0) if weight.dim() == 3 else weight, 0))

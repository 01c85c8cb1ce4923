"""Advantages from comparing rows of the same group."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import unknown
from unirl.reduce.masked import Groups
from unirl.registry import register

CENTERS = ("mean", "leave_one_out", "none")
SCALES = ("std", "none")
SCOPES = ("group", "batch")


@register("advantage", "group")
@dataclass(frozen=True)
class Group:
    r"""A row's score relative to the other rows of its group, the same on every decision of the row.

    .. math:: A_i = \frac{s_i - b_i}{\sigma + \epsilon}

    `center`: b is the group's `mean` (GRPO), the mean of the *other* rows (`leave_one_out`, RLOO), which equals
    G/(G-1) (s_i - mean), or 0 (`none`). `scale`: sigma is the standard deviation of the scores in `scope`, the row's
    group or the whole batch, about their mean, with divisor n - `ddof` (1: sample deviation, GRPO's); `none` divides
    by nothing. `eps` 1e-6 is GRPO's.

    A row alone in its group has nothing to compare with: its centred score is 0 under `mean` and `leave_one_out`.
    Where a scope has no more than `ddof` rows, sigma + eps is replaced by 1. Statistics are taken in double
    precision, so that equal scores give exactly no advantage up to rounding of 1e-10.

    Reads `score` [N] and `group` [N]; fills `advantage` [N, T]. Raises `UserError` for unknown options. Source:
    GRPO (Shao et al. 2024), RLOO (Ahmadian et al. 2024), Dr. GRPO (Liu et al. 2025) for `scale="none"`.
    """

    center: str = "mean"
    scale: str = "std"
    eps: float = 1e-6
    scope: str = "group"
    ddof: int = 1
    reads = ("score", "group")

    def __post_init__(self) -> None:
        for option, allowed in (("center", CENTERS), ("scale", SCALES), ("scope", SCOPES)):
            if getattr(self, option) not in allowed:
                raise unknown(f"{option} of advantage 'group'", str(getattr(self, option)), allowed)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        score, groups = batch.score.detach().double(), Groups(batch.group)
        size = groups.size.double()
        deviation = score - groups.sum(score) / size
        centred = {
            "mean": deviation,
            "leave_one_out": deviation * size / (size - 1).clamp(min=1),
            "none": score,
        }[self.center]
        advantage = centred if self.scale == "none" else centred / self._scale(score, deviation, groups)
        kind = batch.score.dtype if batch.score.is_floating_point() else torch.get_default_dtype()
        return batch.replace(advantage=advantage.to(kind)[:, None] * batch.mask)

    def _scale(self, score: Tensor, deviation: Tensor, groups: Groups) -> Tensor:
        """What every row is divided by, sigma + eps, [N]."""
        if self.scope == "group":
            squares, freedom = groups.sum(deviation.square()), groups.size - self.ddof
        else:
            squares = (score - score.mean()).square().sum().expand_as(score)
            freedom = torch.full_like(groups.size, len(score) - self.ddof)
        scale = (squares / freedom.clamp(min=1)).sqrt() + self.eps
        return torch.where(freedom > 0, scale, 1.0)

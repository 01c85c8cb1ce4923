"""Importance weights for rows that another programme sampled than the one that trains on them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.reduce.masked import row_means, row_sums
from unirl.registry import register

LEVELS = ("token", "sequence", "geometric")
MODES = ("truncate", "mask")


@register("selection", "engine_correction")
@dataclass(frozen=True)
class EngineCorrection:
    r"""Weight decisions by how much likelier the trained policy makes them than whatever sampled them.

    .. math::

        \rho_{it} = e^{\log\pi_{old} - \log\mu}, \qquad w_{it} \leftarrow w_{it}\, f(\rho_{it})

    with f(rho) = clip(rho, low, high) for `mode` "truncate" and, for "mask", rho where low <= rho <= high and 0
    elsewhere.

    mu is `behavior_logp`, as the sampler reported it: a roll-out engine with the same weights rounds otherwise than the
    trainer, cuts its distribution (top-k, top-p), or holds older weights. `level`: "token" has a ratio for each
    decision; "sequence" one for each row, the product of its decisions' ratios; "geometric" one for each row, their
    geometric mean, whose spread does not grow with the length. Where both policies agree, weights stay as they are.

    Names in the literature: truncated importance sampling (Yao et al. 2025, "Your Efficient RL Framework Secretly
    Brings You Off-Policy RL Training") is `token, truncate, high=2`, the default; IcePop (Ling Team 2025) `token, mask,
    low=.5, high=5`; sequence-level masked importance sampling (Liu et al. 2025, "When Speed Kills Stability")
    `sequence, mask, high=2`. Masked decisions stay in the divisor of the reduction.

    Reads `behavior_logp`, `old_logp` [N, T]; fills `weight` [N, T], without gradients. Works for densities. Losses per
    row and per pair have no weights, so it does not change them. "sequence" and "geometric" are meant for rows that
    hold one episode or response. Raises `UserError` for an unknown level or mode and unless 0 <= low <= 1 <= high.
    """

    level: str = "token"
    mode: str = "truncate"
    low: float = 0.0
    high: float = 2.0
    reads = ("behavior_logp", "old_logp")

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise unknown("level of selection 'engine_correction'", str(self.level), LEVELS)
        if self.mode not in MODES:
            raise unknown("mode of selection 'engine_correction'", str(self.mode), MODES)
        if not 0 <= self.low <= 1 <= self.high:
            raise UserError(
                f"selection 'engine_correction': low is {self.low} and high {self.high}; ratios of equal policies are "
                "1, so give 0 <= low <= 1 <= high"
            )

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `weight` changed."""
        weight = batch.get("weight", torch.ones(batch.mask.shape, device=batch.mask.device))
        correction = torch.where(batch.mask, self._correction(batch), 1.0)
        return batch.replace(weight=weight * correction.to(weight))

    def _correction(self, batch: Batch) -> Tensor:
        """The limited ratios, [N, T] or [N, 1]."""
        log_ratio = (batch.old_logp - batch.behavior_logp).detach()
        log_ratio = log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32))
        if self.level != "token":
            over_rows = row_sums if self.level == "sequence" else row_means
            log_ratio = over_rows(log_ratio, batch.mask)[:, None]
        ratio: Tensor = log_ratio.exp()
        if self.mode == "truncate":
            return ratio.clamp(self.low, self.high)
        return torch.where((ratio >= self.low) & (ratio <= self.high), ratio, 0.0)

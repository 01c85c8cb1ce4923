"""Standardising advantages that another part has filled."""

from dataclasses import dataclass

import torch

from unirl.batch import Batch
from unirl.registry import register


@register("advantage", "batch_norm")
@dataclass(frozen=True)
class BatchNorm:
    r"""Standardise `advantage` over all masked decisions of the batch.

    .. math:: A \leftarrow (A - \bar A) / (\mathrm{std}(A) + \epsilon)

    The standard deviation is the sample one (divisor n - 1) about the mean, also with `center=False`, which keeps the
    sign of every advantage. A batch with fewer than two masked decisions is left as it is. Weights are ignored.

    Reads and fills `advantage` [N, T]; 0 outside the mask. `eps` 1e-8 is that of the PPO implementations of OpenAI
    Baselines and Stable-Baselines3.
    """

    eps: float = 1e-8
    center: bool = True
    reads = ("advantage",)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        advantage, mask = batch.advantage.detach(), batch.mask
        count = mask.sum()
        kept = torch.where(mask, advantage, 0)
        mean = kept.sum() / count.clamp(min=1)
        deviation = torch.where(mask, advantage - mean, 0)
        std = (deviation.square().sum() / (count - 1).clamp(min=1)).sqrt()
        normalised = (deviation if self.center else kept) / (std + self.eps)
        return batch.replace(advantage=torch.where(count > 1, normalised, kept))

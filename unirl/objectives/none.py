"""Methods whose policy is made from the critic."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.registry import register


@register("objective", "none")
@dataclass(frozen=True)
class NoObjective:
    """Nothing to change the policy towards: it is read off a critic (`policy: greedy`), or does not learn.

    Reads `mask`, gives zeros [N, T] without a gradient. Where the policy has no parameters of its own, the loss
    `policy` is never asked for.
    """

    level = "decision"
    reads = ()

    def __call__(self, batch: Batch) -> Tensor:
        """Zeros, [N, T]."""
        return torch.zeros(batch.mask.shape, device=batch.device)

"""What a policy update did, from a scored minibatch: for the log, never for the loss."""

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.reduce.masked import masked_mean


@torch.no_grad()
def policy_diagnostics(batch: Batch, clip: tuple[float, float] | None = None) -> dict[str, Tensor]:
    """Entropy, KL(old to new) (k3 estimate on recorded actions) and the share of clipped ratios, over the mask."""
    mask = batch.mask
    found: dict[str, Tensor] = {}
    if "entropy" in batch:
        found["policy/entropy"] = masked_mean(batch.entropy, mask)
    if "logp" in batch and "old_logp" in batch:
        log_ratio = batch.logp - batch.old_logp
        ratio = log_ratio.exp()
        found["policy/kl_old"] = masked_mean(ratio - 1 - log_ratio, mask)
        if clip is not None:
            low, high = clip
            found["policy/clip_fraction"] = masked_mean(((ratio < 1 - low) | (ratio > 1 + high)).float(), mask)
    return found

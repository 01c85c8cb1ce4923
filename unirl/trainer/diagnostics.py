"""What a policy update did, and how far the sampler is from the policy: for the log, never for the loss."""

import torch
from torch import Tensor

from unirl.batch import POLICY, Batch
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


@torch.no_grad()
def engine_log_ratios(batch: Batch, logp: Tensor) -> Tensor:
    """log(pi / mu) of every decision that the policy's own rows hold, [M]; empty where nobody says what mu is.

    `logp` [N, T] is the trained policy's, before this batch's first step; mu is `behavior_logp`.
    """
    if "behavior_logp" not in batch:
        return logp.new_zeros(0)
    mask = batch.mask
    if "source" in batch:
        mask = mask & (batch.source == POLICY)[:, None]
    log_ratios: Tensor = (logp.detach() - batch.behavior_logp)[mask]
    return log_ratios


@torch.no_grad()
def engine_mismatch(log_ratios: Tensor) -> dict[str, Tensor]:
    r"""How far what sampled a batch is from the policy that trains on it: 0 and 1 where they agree.

    `policy/engine_kl`: KL(mu || pi) by the estimate k3, the mean of r - 1 - log r with r = pi / mu, which is never
    negative and, for two nearly equal policies, far less noisy than the mean of -log r. `policy/engine_max_ratio`: the
    largest r. Where roll-outs are used again, the policy's own steps since then are in both.
    """
    if not len(log_ratios):
        return {}
    exact = log_ratios.double()  # k3 of 1e-6 is 5e-13
    return {
        "policy/engine_kl": (torch.expm1(exact) - exact).mean(),
        "policy/engine_max_ratio": exact.max().exp(),
    }

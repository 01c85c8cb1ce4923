"""Advantages from rewards along a row: Monte-Carlo returns and generalised advantage estimation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.advantages.scan import reverse_scan
from unirl.batch import Batch
from unirl.errors import unknown
from unirl.registry import register


@register("advantage", "mc")
@dataclass(frozen=True)
class MonteCarlo:
    r"""Discounted reward-to-go within each episode of a row.

    .. math:: G_t = r_t + \gamma\, G_{t+1}, \qquad A_t = G_t - b_t

    With `baseline="value"` b is `value`, with None it is 0. Nothing follows a termination. Where an episode was cut
    (truncated, or the row ends while it goes on) the rest is estimated by `next_value` if the batch has it, as it
    must with `baseline="value"`, and taken as 0 otherwise. Decisions outside the mask are passed over as if they were
    not there (no reward, no discount), except that an episode's end among them still ends it.

    `gamma`: discount per decision, default 1 (undiscounted, usual for language). Fills `advantage` and `returns` =
    G, both [N, T]. Raises `UserError` for an unknown baseline. Source: REINFORCE with baseline (Williams 1992).
    """

    gamma: float = 1.0
    baseline: str | None = None

    def __post_init__(self) -> None:
        if self.baseline not in (None, "value"):
            raise unknown("baseline of advantage 'mc'", str(self.baseline), ["value"])

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        fields = ("reward", "terminated", "truncated")
        return (*fields, "value", "next_value") if self.baseline else fields

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        reward, mask = batch.reward.detach(), batch.mask
        ended = batch.terminated | batch.truncated
        cut = ended | ~_followed(mask, ended)
        decay = torch.full_like(reward, self.gamma).masked_fill(cut, 0.0)
        decay = torch.where(mask, decay, (~ended).to(reward.dtype))
        known = self.baseline is not None or "next_value" in batch
        rest = _after_termination(batch) if known else torch.zeros_like(reward)
        step = reward + self.gamma * torch.where(cut, rest, 0)
        returns = reverse_scan(torch.where(mask, step, 0), decay)
        advantage = returns - batch.value.detach() if self.baseline else returns
        return batch.replace(advantage=torch.where(mask, advantage, 0), returns=torch.where(mask, returns, 0))


@register("advantage", "gae")
@dataclass(frozen=True)
class GAE:
    r"""Generalised advantage estimation: an exponential average of n-step advantages.

    .. math::

        \delta_t = r_t + \gamma (1 - \mathrm{terminated}_t) V(s_{t+1}) - V(s_t), \qquad
        A_t = \delta_t + \gamma\lambda (1 - \mathrm{ended}_t) A_{t+1}

    V(s_{t+1}) is `next_value`: the value of the state the decision led to, so a truncated episode (or one that the
    row's end cuts) is bootstrapped and a terminated one is not. Nothing leaks across an episode's end within a row.
    Decisions outside the mask are passed over as if they were not there.

    `gamma` .99 and `lam` .95 are PPO's for MuJoCo; language usually takes 1 and 1 or .95. Fills `advantage` and
    `returns` = advantage + value, both [N, T]. Source: Schulman et al. 2016.
    """

    gamma: float = 0.99
    lam: float = 0.95
    reads = ("reward", "value", "next_value", "terminated", "truncated")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `advantage` filled."""
        mask, value = batch.mask, batch.value.detach()
        delta = batch.reward.detach() + self.gamma * _after_termination(batch) - value
        decay = torch.full_like(delta, self.gamma * self.lam).masked_fill(~mask, 1.0)
        decay = decay.masked_fill(batch.terminated | batch.truncated, 0.0)
        advantage = torch.where(mask, reverse_scan(torch.where(mask, delta, 0), decay), 0)
        return batch.replace(advantage=advantage, returns=torch.where(mask, advantage + value, 0))


def _after_termination(batch: Batch) -> Tensor:
    """`next_value`, 0 where the episode terminated."""
    return torch.where(batch.terminated, 0, batch.next_value.detach())


def _followed(mask: Tensor, ended: Tensor) -> Tensor:
    """[N, T] bool: whether a later masked decision exists before an episode ends outside the mask."""
    reaches = reverse_scan(mask.float(), (~mask & ~ended).float()) > 0
    return torch.cat([reaches[:, 1:], torch.zeros_like(mask[:, :1])], 1)

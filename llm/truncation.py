"""Truncated sampling: which tokens of a step can be drawn at all. The same rule serves roll-outs and training."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unirl.errors import UserError

RULED_OUT = -1e30  # the logit of a token that cannot be drawn: finite, so that its probability times it is 0
FIRST_TOP, GROWTH = 64, 8  # so many of the likeliest tokens are sorted, then 8 times as many, until they hold `top_p`


@dataclass(frozen=True)
class Truncation:
    r"""Rules tokens out, after the temperature and in this order, which is vLLM's; the rest is renormalised.

    `min_p`: tokens less than `min_p` times as likely as the likeliest one. `top_k`: all but the k likeliest (0: none).
    `top_p`: all but the smallest set of likeliest tokens that holds at least `top_p` of what the other two left.

    Each is a threshold on the logits of a row, so tokens whose logits are equal stay or go together: the set may hold
    more than k tokens, or more than the smallest set, where the last one ties. Raises `UserError` for other values.

    Sources: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p), Nguyen et al. 2025 (min-p).
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not _is_number(self.top_k) or self.top_k < 0 or not float(self.top_k).is_integer():
            raise UserError(f"domain.top_k is {self.top_k!r}; it must be 0 (every token) or a number of tokens")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise UserError(f"domain.top_p is {self.top_p!r}; it must be above 0 and at most 1 (every token)")
        if not _is_number(self.min_p) or not 0 <= self.min_p <= 1:
            raise UserError(f"domain.min_p is {self.min_p!r}; it must be between 0 (every token) and 1")

    @property
    def active(self) -> bool:
        """Whether any token could be ruled out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def least(self, logits: Tensor) -> Tensor:
        """The smallest logit that can be drawn, [N, 1], of tempered logits [N, V]."""
        least = logits.amax(-1, keepdim=True) + (math.log(self.min_p) if self.min_p > 0 else -math.inf)
        if 0 < self.top_k < logits.shape[1]:
            least = torch.maximum(least, logits.topk(int(self.top_k)).values[:, -1:])
        return least if self.top_p == 1 else _least_of_nucleus(logits, least, self.top_p)


def rule_out(logits: Tensor, least: Tensor, kept: Tensor | None = None) -> Tensor:
    """The logits [N, V], changed in place: `RULED_OUT` where they are below `least` [N, 1].

    `kept` [N] are tokens that stay in any case. A token that was drawn was in the set when it was drawn; found again
    from logits that were computed along another path, or for a policy that has moved on, the set's border may have
    passed it, and minus infinity would be neither a log-probability nor a ratio to train on.
    """
    out = logits < least
    if kept is not None:
        out.scatter_(1, kept[:, None], False)
    return logits.masked_fill_(out, RULED_OUT)


def _least_of_nucleus(logits: Tensor, least: Tensor, top_p: float) -> Tensor:
    """`least`, raised to the last token of the nucleus: the first one with which the sorted tokens reach `top_p`."""
    p = logits.masked_fill(logits < least, RULED_OUT).softmax(-1)
    found = least.clone()
    rows = torch.arange(len(logits), device=logits.device)  # those whose nucleus is not found yet
    top, left = FIRST_TOP, logits
    while len(rows):
        values, tokens = left.topk(min(top, logits.shape[1]))
        sums = p.gather(-1, tokens).cumsum(-1, dtype=torch.float64)
        last = (sums < top_p).sum(-1, keepdim=True).clamp_(max=values.shape[1] - 1)  # the first place that reaches it
        found[rows] = torch.maximum(least[rows], values.gather(-1, last))
        if values.shape[1] == logits.shape[1]:
            break
        unfinished = sums[:, -1] < top_p
        rows, left, p, top = rows[unfinished], left[unfinished], p[unfinished], GROWTH * top
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


EVERY_TOKEN = Truncation()

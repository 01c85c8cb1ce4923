"""Drawing tokens from logits."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unirl.llm.rollout.engine import Sampling
from unirl.llm.truncation import rule_out

BLOCK = 128  # tokens that are drawn together at first; it divides most large vocabularies


@dataclass(frozen=True)
class Drawn:
    """One token per row: `tokens`, `logp` [N]; where asked for, `top_tokens`, `top_logp` [N, k] and `entropy` [N]."""

    tokens: Tensor
    logp: Tensor
    top_tokens: Tensor | None = None
    top_logp: Tensor | None = None
    entropy: Tensor | None = None


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Drawn:
    """One token per row from p = softmax(logits) [N, V], truncated (`sampling.truncation`): the logits are used up.

    The temperature is in the logits already. Two draws by inversion, of a block of tokens and then of a token in it,
    are an exact draw from p that costs two random numbers: a number for every token (Gumbel-max, or
    `torch.multinomial`) costs more than the model that made the logits where the vocabulary is large.
    """
    if sampling.truncation.active:
        rule_out(logits, sampling.truncation.least(logits))
    p = logits.softmax(-1)
    token = logits.argmax(-1, keepdim=True) if sampling.greedy else _drawn(p, generator)
    top_logp, top_tokens = p.topk(min(sampling.top_logprobs, p.shape[1])) if sampling.top_logprobs else (None, None)
    return Drawn(
        token.squeeze(1),
        p.gather(1, token).log_().squeeze(1),
        top_tokens,
        None if top_logp is None else top_logp.log_(),
        torch.special.entr(p).sum(-1) if sampling.entropy else None,
    )


def _drawn(p: Tensor, generator: torch.Generator) -> Tensor:
    beyond = -p.shape[1] % BLOCK
    blocks = (functional.pad(p, (0, beyond)) if beyond else p).unflatten(1, (-1, BLOCK))
    block = _inverted(blocks.sum(-1), generator)
    inside = blocks[torch.arange(len(p), device=p.device), block.squeeze(1)]
    return (block * BLOCK + _inverted(inside, generator)).clamp_(max=p.shape[1] - 1)


def _inverted(weights: Tensor, generator: torch.Generator) -> Tensor:
    """A column per row, drawn in proportion to the weights [N, K]: where the running sum first exceeds u times the sum.

    The clamp is for rows of NaN, which are nowhere in order: a policy that has diverged fails where it is measured.
    """
    sums = weights.cumsum(1, dtype=torch.float64)
    uniform = torch.rand(len(sums), 1, dtype=torch.float64, device=sums.device, generator=generator)
    return torch.searchsorted(sums, uniform * sums[:, -1:], right=True).clamp_(max=sums.shape[1] - 1)

"""What both vLLM engines share: what they refuse, their seeds, and their answers as tensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from unirl.errors import UserError
from unirl.llm.rollout.engine import Responses, Sampling, check_prompts

ADVICE = "raise its `memory` or `max_length`, within the model's context, or lower task.max_new_tokens"
SEEDS = 2**62  # the n responses to a prompt have consecutive seeds, which must stay below 2**63


@dataclass(frozen=True)
class Answer:
    """One response: its `tokens` and, one after the other for every token, what was reported of it.

    `reported_tokens` and `reported_logp` hold 1 + k entries per token: the drawn one, then the k likeliest.
    """

    tokens: Sequence[int]
    reported_tokens: Sequence[int]
    reported_logp: Sequence[float]
    ended: bool


def responses(answers: Sequence[Answer], sampling: Sampling, version: int, device: torch.device) -> Responses:
    """The answers as right-padded rows on `device`."""
    lengths = torch.tensor([len(answer.tokens) for answer in answers])
    shape = (len(answers), int(lengths.max()))
    mask = torch.arange(shape[1]) < lengths[:, None]
    width = 1 + sampling.top_logprobs
    reported = torch.tensor(list(chain.from_iterable(answer.reported_logp for answer in answers))).reshape(-1, width)
    tokens = torch.tensor(list(chain.from_iterable(answer.tokens for answer in answers)))
    top_tokens = top_logp = None
    if sampling.top_logprobs:
        drawn_and_top = torch.tensor(list(chain.from_iterable(answer.reported_tokens for answer in answers)))
        top_tokens = _spread(drawn_and_top.reshape(-1, width)[:, 1:], mask, sampling.pad).to(device)
        top_logp = _spread(reported[:, 1:], mask, 0.0).to(device)
    return Responses(
        tokens=_spread(tokens, mask, sampling.pad).to(device),
        logp=_spread(reported[:, 0], mask, 0.0).to(device),
        mask=mask.to(device),
        ended=torch.tensor([answer.ended for answer in answers], device=device),
        version=torch.full(shape, version, device=device),
        top_tokens=top_tokens,
        top_logp=top_logp,
    )


def seeds(count: int, sampling: Sampling, generator: torch.Generator) -> list[int | None]:
    """A seed for every prompt; greedy decoding draws nothing."""
    if sampling.greedy:
        return [None] * count
    found: list[int | None] = torch.randint(SEEDS, (count,), generator=generator, device=generator.device).tolist()
    return found


def check_request(engine: str, prompts: Sequence[Sequence[int]], sampling: Sampling, longest: int) -> None:
    """Raise `UserError` for what vLLM does not report, for an empty prompt, and for one without room for a response."""
    if sampling.entropy:
        raise UserError(f"engine '{engine}' does not report entropies; take domain.engine.name=transformers for them")
    check_prompts(prompts, sampling, longest, f"engine '{engine}' has room for; {ADVICE}")


@contextmanager
def said_in_one_line(doing: str) -> Iterator[None]:
    """Turn whatever vLLM raises into a `UserError`: it and its backends have classes of errors of their own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
        raise UserError(f"vLLM failed {doing}: {said} (--debug shows where)") from error


def _spread(flat: Tensor, mask: Tensor, pad: float) -> Tensor:
    """Lay the values of all drawn tokens [sum of lengths, ...] out in rows [N, T, ...]."""
    rows = torch.full((*mask.shape, *flat.shape[1:]), pad, dtype=flat.dtype)
    rows[mask] = flat
    return rows

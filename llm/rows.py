"""From prompts and token ids to rows of a `Batch`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.llm.microbatch import response_lengths


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids [N, P] with the padding on the left, and which of them are real."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) >= (width - lengths)[:, None]


def right_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids [N, T] with the padding on the right, and which of them are real."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [pad] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) < lengths[:, None]


def padded_prompts(prompts: Sequence[Any], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids of the prompts [N, P], left-padded, and which are real. Raises `UserError` for an empty prompt."""
    ids = [prompt.token_ids for prompt in prompts]
    if not all(ids):
        raise UserError("a prompt of the task has no tokens; the model needs at least one to start from")
    return left_padded(ids, pad)


def response_batch(
    prompt: Tensor, prompt_mask: Tensor, tokens: Tensor, mask: Tensor, ended: Tensor, rewards: Mapping[str, Tensor],
    **fields: Any,
) -> Batch:  # fmt: skip
    """Rows of one response each: `context`, `inputs`, `mask`, `score`, `rewards`, `reward`, `terminated`, `truncated`.

    `rewards` holds `score` [N] and named components, or nothing where nobody can judge: then there is no `score` and
    the reward is 0. The score is the reward of the last token. A response that ended by itself is terminated there; one
    that ran into the limit is truncated there, and the state after it has a value.
    """
    lengths = response_lengths(mask)
    last = torch.arange(mask.shape[1], device=mask.device) == (lengths - 1)[:, None]
    score = rewards.get("score")
    components = {name: value for name, value in rewards.items() if name != "score"}
    return Batch(
        mask=mask,
        inputs={"token": tokens},
        context={"prompt": prompt, "prompt_mask": prompt_mask},
        score=score,
        rewards=components or None,
        reward=last * (torch.zeros(len(mask), device=mask.device) if score is None else score)[:, None],
        terminated=last & ended[:, None],
        truncated=last & ~ended[:, None],
        **fields,
    )


def judge(task: Any, tokenizer: Any, prompts: Sequence[Any], tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What the task says of every response: `score` and named components, [N] each; nothing if it has no reward."""
    if not task.has_reward:
        return {}
    ids = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    texts = tokenizer.batch_decode(_spelled(ids, tokenizer), skip_special_tokens=True)
    found: dict[str, list[float]] = task.reward(list(prompts), texts, ids)
    return {name: torch.tensor(values, dtype=torch.float32, device=tokens.device) for name, values in found.items()}


def _spelled(ids: list[list[int]], tokenizer: Any) -> list[list[int]]:
    """The ids that the tokenizer knows: a model may embed more, and only fast tokenizers leave those out themselves."""
    if tokenizer.is_fast:
        return ids
    known = set(tokenizer.get_vocab().values())
    return [[token for token in row if token in known] for row in ids]

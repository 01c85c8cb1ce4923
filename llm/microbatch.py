"""Cutting a batch of responses into pieces that fit in memory, with little padding and without changing its loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unirl.batch import FIELDS, Batch

_BY_DECISION = ("decision", "action")


def response_lengths(mask: Tensor) -> Tensor:
    """Tokens of every row up to its last masked decision, [N]; what lies before it and is unmasked is still text."""
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * steps).amax(1) if mask.shape[1] else mask.new_zeros(mask.shape[0], dtype=torch.long)


def prompt_lengths(batch: Batch) -> Tensor:
    """Tokens of every row's prompt, [N]."""
    lengths: Tensor = batch.context["prompt_mask"].sum(1)
    return lengths


def microbatches(batch: Batch, token_budget: int) -> list[Batch]:
    """Pieces of at most `token_budget` tokens (prompt and response, with padding), each trimmed to its own longest row.

    Rows of similar length share a piece. Rows that are compared by `pairs`, directly or over others, stay together even
    where they exceed the budget. Losses that are sums over decisions, rows or pairs with a fixed divisor add up over
    the pieces to that of the whole batch.
    """
    return [trimmed(batch[rows]) for rows in row_pieces(batch, token_budget)]


def row_pieces(batch: Batch, token_budget: int) -> list[Tensor]:
    """Indices of the rows of every piece; all rows in their own order if they fit in one."""
    responses, prompts = response_lengths(batch.mask).tolist(), prompt_lengths(batch).tolist()
    if not responses:
        return []
    if (max(responses) + max(prompts)) * len(responses) <= token_budget:
        return [torch.arange(len(responses), device=batch.device)]
    pieces: list[list[int]] = []
    longest_response = longest_prompt = 0
    for unit in sorted(_units(batch), key=lambda rows: max((responses[r], prompts[r]) for r in rows), reverse=True):
        response = max(longest_response, *(responses[row] for row in unit))
        prompt = max(longest_prompt, *(prompts[row] for row in unit))
        if pieces and (response + prompt) * (len(pieces[-1]) + len(unit)) <= token_budget:
            pieces[-1].extend(unit)
        else:
            pieces.append(list(unit))
            response, prompt = max(responses[row] for row in unit), max(prompts[row] for row in unit)
        longest_response, longest_prompt = response, prompt
    return [torch.tensor(rows, device=batch.device) for rows in pieces]


def trimmed(batch: Batch) -> Batch:
    """The same rows without columns that are padding in all of them; at least one column stays on either side."""
    decisions = max(1, int(response_lengths(batch.mask).max()))
    context = max(1, int(prompt_lengths(batch).max()))
    if decisions == batch.mask.shape[1] and context == batch.context["prompt_mask"].shape[1]:
        return batch
    return Batch(**{name: _cut(name, getattr(batch, name), decisions, context) for name in batch})


def _cut(name: str, value: Any, decisions: int, context: int) -> Any:
    shape = FIELDS[name][0]
    if shape == "nested":
        if name == "context":
            return {key: leaf[:, -context:] if leaf.dim() > 1 else leaf for key, leaf in _items(value)}
        return {key: leaf[:, :decisions] if leaf.dim() > 1 else leaf for key, leaf in _items(value)}
    if shape == "heads":
        return value[..., :decisions]
    if shape in _BY_DECISION and isinstance(value, Tensor) and value.dim() > 1:
        return value[:, :decisions]
    return value


def _items(nested: Any) -> list[tuple[str, Tensor]]:
    mapping: Mapping[str, Tensor] = nested
    return list(mapping.items())


def _units(batch: Batch) -> list[list[int]]:
    """Rows that must stay together: connected by pairs; every other row by itself."""
    leader = list(range(len(batch)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    if "pairs" in batch:
        for first, second in batch.pairs.tolist():
            leader[find(first)] = find(second)
    units: dict[int, list[int]] = {}
    for row in range(len(batch)):
        units.setdefault(find(row), []).append(row)
    return list(units.values())

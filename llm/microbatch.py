"""Cutting a batch of responses into pieces that fit in memory, without changing its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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


def same_prompt(batch: Batch) -> list[int]:
    """Of every row, the first row with the same prompt, token by token."""
    ids = batch.context["prompt"].masked_fill(~batch.context["prompt_mask"], -1)
    firsts: dict[bytes, int] = {}
    return [firsts.setdefault(row.tobytes(), number) for number, row in enumerate(ids.cpu().numpy())]


def microbatches(batch: Batch, token_budget: int, packed: bool = True) -> list[Batch]:
    """Pieces of at most `token_budget` tokens, each trimmed to its own longest row.

    What counts are the tokens that go through the model: of packed rows the real ones, with a prompt that several rows
    share once, so that rows with the same prompt stay together where they fit; else padding too, so that rows of
    similar length share a piece. Rows that are compared by `pairs`, directly or over others, stay together even
    where they exceed the budget. Losses that are sums over decisions, rows or pairs with a fixed divisor add up over
    the pieces to that of the whole batch.
    """
    return [trimmed(batch[rows]) for rows in row_pieces(batch, token_budget, packed)]


def row_pieces(batch: Batch, token_budget: int, packed: bool = True) -> list[Tensor]:
    """Indices of the rows of every piece; all rows in their own order if they fit in one."""
    if not len(batch):
        return []
    cost = _RealTokens.of(batch) if packed else _PaddedTokens.of(batch)
    everything = list(range(len(batch)))
    if cost(everything) <= token_budget:
        return [torch.tensor(everything, device=batch.device)]
    pieces = cost.pieces(_units(batch), token_budget)
    return [torch.tensor(rows, device=batch.device) for rows in pieces]


@dataclass(frozen=True)
class _RealTokens:
    """Tokens without padding, a shared prompt once."""

    responses: list[int]
    prompts: list[int]
    firsts: list[int]  # the first row with the same prompt

    @classmethod
    def of(cls, batch: Batch) -> "_RealTokens":
        return cls(response_lengths(batch.mask).tolist(), prompt_lengths(batch).tolist(), same_prompt(batch))

    def __call__(self, rows: Sequence[int]) -> int:
        return sum(self.responses[row] for row in rows) + sum(
            self.prompts[first] for first in {self.firsts[row] for row in rows}
        )

    def pieces(self, units: Sequence[list[int]], budget: int) -> list[list[int]]:
        """Units with one prompt together, in the first piece that has room, the largest first; too many are split."""
        groups: dict[int, list[list[int]]] = {}
        for unit in units:
            groups.setdefault(self.firsts[unit[0]], []).append(unit)
        whole = [list(chain.from_iterable(group)) for group in groups.values()]
        bundles = [
            bundle
            for group, rows in zip(groups.values(), whole, strict=True)
            for bundle in ([rows] if self(rows) <= budget else self._split(group, budget))
        ]
        pieces: list[list[int]] = []
        filled: list[int] = []
        for bundle in sorted(bundles, key=self, reverse=True):
            size = self(bundle)
            room = next((i for i, used in enumerate(filled) if used + size <= budget), None)
            if room is None:
                pieces.append(list(bundle))
                filled.append(size)
            else:
                pieces[room].extend(bundle)
                filled[room] += size
        return pieces

    def _split(self, units: Sequence[list[int]], budget: int) -> list[list[int]]:
        pieces = [list(units[0])]
        for unit in units[1:]:
            if self([*pieces[-1], *unit]) <= budget:
                pieces[-1].extend(unit)
            else:
                pieces.append(list(unit))
        return pieces


@dataclass(frozen=True)
class _PaddedTokens:
    """Tokens of rows that are padded to the longest prompt and the longest response."""

    responses: list[int]
    prompts: list[int]

    @classmethod
    def of(cls, batch: Batch) -> "_PaddedTokens":
        return cls(response_lengths(batch.mask).tolist(), prompt_lengths(batch).tolist())

    def __call__(self, rows: Sequence[int]) -> int:
        return (max(self.responses[row] for row in rows) + max(self.prompts[row] for row in rows)) * len(rows)

    def pieces(self, units: Sequence[list[int]], budget: int) -> list[list[int]]:
        """Units of similar length together, the longest first."""
        pieces: list[list[int]] = []
        for unit in sorted(units, key=self._longest, reverse=True):
            if pieces and self([*pieces[-1], *unit]) <= budget:
                pieces[-1].extend(unit)
            else:
                pieces.append(list(unit))
        return pieces

    def _longest(self, rows: Sequence[int]) -> int:
        return max(max(self.responses[row], self.prompts[row]) for row in rows)


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

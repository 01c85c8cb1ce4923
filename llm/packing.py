"""Rows of text without padding: a prompt that several rows share is written once, and attention is computed in buckets.

The tokens of a batch lie in one sequence of *segments*. A row with a prompt of its own is one segment, prompt and
response. A prompt that several rows share is a segment, and so is each of their responses, whose positions go on where
the prompt ended and which see the prompt and their own tokens (Prefix Grouper [168], 2025): the same numbers, and the
same gradients, as from rows that repeat the prompt.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.llm.microbatch import prompt_lengths, response_lengths, same_prompt

WASTE = 2**14  # scores of padding that cost about as much as one more call of the attention kernel
WASTE_SHARE = 0.125  # or this share of a bucket's own scores, so that a large batch does not fall into many calls


class Segment(NamedTuple):
    """Tokens that attend together: where they start in the sequence, how many; the same of the prompt they follow."""

    start: int
    length: int
    prompt: int = 0
    prompt_length: int = 0


@dataclass(frozen=True)
class Bucket:
    """Segments of similar length, padded on the right for one call of the attention kernel.

    `offset` [B]: tokens before the first query of each; `length` [B]: its queries; `mask` [B or 1, 1, Q, K]: what these
    may see, None where it is what lies before them.
    """

    queries: int  # Q, in the longest
    keys: int  # K, prompt and own tokens of the longest
    offset: Tensor
    length: Tensor
    mask: Tensor | None

    def __len__(self) -> int:
        return len(self.offset)

    def visible(self, window: int | None) -> Tensor | None:
        """The mask, where a token sees the last `window` tokens only, itself among them."""
        if window is None or self.keys <= window:
            return self.mask
        key = torch.arange(self.keys, device=self.offset.device)
        query = torch.arange(self.queries, device=self.offset.device)
        query = torch.minimum(query, self.length[:, None] - 1)  # padding sees what the last token sees: never nothing
        position = (self.offset[:, None] + query)[:, None, :, None]
        return (key <= position) & (key > position - window)


@dataclass(frozen=True)
class Packing:
    """A batch as one sequence of S tokens.

    `tokens`, `positions` [S]. `at` [N, T+1]: where in the sequence the state is that token t of a row is chosen from;
    after a response's last token its last state is repeated. `queries`, `keys`: the tokens of all buckets, one after
    the other; `places` [S]: where among the queries every token is.
    """

    tokens: Tensor
    positions: Tensor
    at: Tensor
    queries: Tensor
    keys: Tensor
    places: Tensor
    buckets: tuple[Bucket, ...]


def pack(batch: Batch) -> Packing:
    """The batch's prompts (left-padded) and responses (up to their last masked decision) without padding."""
    prompt, tokens = batch.context["prompt"], batch.inputs["token"]
    prompts, responses = prompt_lengths(batch).tolist(), response_lengths(batch.mask).tolist()
    firsts = same_prompt(batch)
    rows_with = Counter(firsts)
    text, width = _Text(), prompt.shape[1] + tokens.shape[1]
    prompt_ends, response_starts, roots = [], [], {}
    for row, first in enumerate(firsts):
        source, alone = row * width + prompt.shape[1], rows_with[first] == 1
        if row == first:
            roots[row] = text.add(source - prompts[row], prompts[row] + (responses[row] if alone else 0))
        start = after = roots[first] + prompts[row]
        if responses[row] and not alone:
            after = text.add(source, responses[row], roots[first], prompts[row])
        prompt_ends.append(start - 1)
        response_starts.append(after)
    sources, lengths = torch.tensor(text.sources), torch.tensor([segment.length for segment in text.segments])
    positions = _ranges(torch.tensor([segment.prompt_length for segment in text.segments]), lengths)
    at = _state_indices(prompt_ends, response_starts, responses, tokens.shape[1])
    queries, keys, places, buckets = _in_buckets(text.segments, text.total, batch.device)
    chosen = torch.cat([prompt, tokens], 1).reshape(-1)[_ranges(sources, lengths).to(batch.device)]
    return Packing(chosen, positions.to(batch.device), at.to(batch.device), queries, keys, places, buckets)


class _Text:
    """Segments written one after the other, and where each begins in the flattened, padded batch."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.sources: list[int] = []
        self.total = 0

    def add(self, source: int, length: int, prompt: int = 0, prompt_length: int = 0) -> int:
        """Write a segment; returns where it starts."""
        start = self.total
        self.segments.append(Segment(start, length, prompt, prompt_length))
        self.sources.append(source)
        self.total += length
        return start


def bucketed(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments of similar length together: a bucket is closed where one more would waste too many scores on padding.

    Segments that follow a prompt need a mask and are kept apart from those that do not.
    """
    buckets: list[list[Segment]] = []
    scores, queries, keys = 0, 0, 0
    for segment in sorted(segments, key=lambda s: (s.prompt_length > 0, s.prompt_length, s.length), reverse=True):
        own = segment.length * (segment.length + segment.prompt_length)
        most_queries, most_keys = max(queries, segment.length), max(keys, segment.length + segment.prompt_length)
        count = len(buckets[-1]) + 1 if buckets else 1
        waste = count * most_queries * most_keys - scores - own
        together = bool(buckets) and (buckets[-1][0].prompt_length > 0) == (segment.prompt_length > 0)
        if together and waste <= max(WASTE, WASTE_SHARE * (scores + own)):
            buckets[-1].append(segment)
            scores, queries, keys = scores + own, most_queries, most_keys
        else:
            buckets.append([segment])
            scores, queries, keys = own, segment.length, segment.length + segment.prompt_length
    return buckets


def _in_buckets(
    segments: Sequence[Segment], total: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, tuple[Bucket, ...]]:
    """Indices of the queries and keys of every bucket, the place of every token among the queries, and the buckets."""
    all_queries, all_keys, buckets, filled = [], [], [], 0
    places = torch.empty(total, dtype=torch.long)
    for some in bucketed(segments):
        start, length, prompt, offset = (torch.tensor(column) for column in zip(*some, strict=True))
        query = torch.arange(int(length.max()))
        key = torch.arange(int((length + offset).max()))
        own = start[:, None] + torch.minimum(query, length[:, None] - 1)
        after = start[:, None] + torch.minimum(key - offset[:, None], length[:, None] - 1)
        all_keys.append(torch.where(key < offset[:, None], prompt[:, None] + key, after))
        all_queries.append(own)
        real = query < length[:, None]
        places[own[real]] = filled + torch.arange(own.numel()).reshape(own.shape)[real]
        filled += own.numel()
        offset, length = offset.to(device), length.to(device)
        buckets.append(Bucket(len(query), len(key), offset, length, _mask(offset, len(query), len(key))))
    flat_queries, flat_keys = (torch.cat([part.reshape(-1) for part in parts]) for parts in (all_queries, all_keys))
    return flat_queries.to(device), flat_keys.to(device), places.to(device), tuple(buckets)


def _mask(offset: Tensor, queries: int, keys: int) -> Tensor | None:
    """Query j of a row sees keys 0 to offset + j; one mask for all rows where their offsets are the same."""
    if not offset.any():
        return None
    if (offset == offset[0]).all():
        offset = offset[:1]
    key, query = torch.arange(keys, device=offset.device), torch.arange(queries, device=offset.device)
    return (key <= offset[:, None, None] + query[:, None])[:, None]


def _state_indices(ends: Sequence[int], starts: Sequence[int], responses: Sequence[int], decisions: int) -> Tensor:
    """Where the states of every row are [N, T+1]: the prompt's last token, then the tokens of the response."""
    inside = torch.minimum(torch.arange(decisions + 1), torch.tensor(responses)[:, None])
    return torch.where(inside == 0, torch.tensor(ends)[:, None], torch.tensor(starts)[:, None] + inside - 1)


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """start, start + 1, ... of every pair of start and length, joined."""
    before = lengths.cumsum(0) - lengths
    return torch.repeat_interleave(starts - before, lengths) + torch.arange(int(lengths.sum()))

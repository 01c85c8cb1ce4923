"""How a prepared batch is cut for the update."""

import math
from collections.abc import Iterator

import torch

from unirl.batch import Batch


def minibatches(batch: Batch, *, by: str, parts: int, epochs: int, generator: torch.Generator) -> Iterator[Batch]:
    """`epochs` passes over the batch in a fresh random order, each cut into `parts` nearly equal pieces.

    `by="decision"`: decisions are shuffled apart from their rows (rows of one decision each come out); `"row"` and
    `"pair"` keep rows or compared rows whole. One part needs no shuffling: the batch comes out as it is. Nothing comes
    out of a batch without rows or pairs (all of a group's scores may tie).
    """
    if by == "decision" and parts > 1:
        batch = batch.decisions()
    count = len(batch.pairs) if by == "pair" else len(batch)
    if count == 0:
        return
    for _ in range(epochs):
        if parts == 1:
            yield batch
            continue
        order = torch.randperm(count, generator=generator)
        if by == "pair":
            yield from (batch.of_pairs(chosen) for chosen in order.chunk(parts))
            continue
        shuffled, size = batch[order], math.ceil(count / parts)  # one gather; slices of it are free
        yield from (shuffled[begin : begin + size] for begin in range(0, count, size))

"""How a prepared batch is cut for the update."""

import math
from collections.abc import Iterator

import torch

from unirl.batch import Batch


def minibatches(batch: Batch, *, by: str, parts: int, epochs: int, generator: torch.Generator) -> Iterator[Batch]:
    """`epochs` passes over the batch in a fresh random order, each cut into `parts` nearly equal pieces.

    `by="decision"`: decisions are shuffled apart from their rows (rows of one decision each come out); `"row"`,
    `"group"` and `"pair"` keep rows, groups of rows or compared rows whole. Where there are fewer groups than parts,
    rows are shuffled. One part needs no shuffling: the batch comes out as it is. Nothing comes out of a batch without
    rows or pairs (all of a group's scores may tie).
    """
    if by == "decision" and parts > 1:
        batch = batch.decisions()
    count = len(batch.pairs) if by == "pair" else len(batch)
    if count == 0:
        return
    group = _numbered_groups(batch, parts) if by == "group" else None
    for _ in range(epochs):
        if parts == 1:
            yield batch
        elif by == "pair":
            yield from (batch.of_pairs(chosen) for chosen in torch.randperm(count, generator=generator).chunk(parts))
        elif group is not None:
            order = torch.randperm(int(group.max()) + 1, generator=generator)
            yield from (batch[torch.isin(group, chosen).nonzero().squeeze(-1)] for chosen in order.chunk(parts))
        else:
            order = torch.randperm(count, generator=generator)
            shuffled, size = batch[order], math.ceil(count / parts)  # one gather; slices of it are free
            yield from (shuffled[begin : begin + size] for begin in range(0, count, size))


def _numbered_groups(batch: Batch, parts: int) -> torch.Tensor | None:
    """The number of every row's group, [N], from 0 on; None where there are too few groups for a piece each."""
    if "group" not in batch:
        return None
    number: torch.Tensor = torch.unique(batch.group, return_inverse=True)[1].cpu()
    return number if int(number.max()) + 1 >= parts else None

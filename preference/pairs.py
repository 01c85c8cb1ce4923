"""Which rows are compared, and the verdicts: from groups, segments and records to pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.memory.pairs import PairDataset
from unirl.preference.annotators import Annotator
from unirl.preference.readers import PairRecord, Text

POLICY, OPPONENT = 0, 1  # `Batch.source` of the current policy's rows and of its opponent's


def tournament(group: Tensor) -> Tensor:
    """Every two rows i < j of the same group, [P, 2]."""
    first, second = torch.triu_indices(len(group), len(group), offset=1, device=group.device)
    same = group[first] == group[second]
    return torch.stack([first[same], second[same]], -1)


def against_opponent(group: Tensor, source: Tensor) -> Tensor:
    """Every (row of the policy, row of its opponent) within the same group, [P, 2]."""
    met = (group[:, None] == group[None, :]) & (source == POLICY)[:, None] & (source == OPPONENT)[None, :]
    return met.nonzero()


def random_pairs(group: Tensor, per_group: int, generator: torch.Generator) -> Tensor:
    """`per_group` pairs of two different rows from each group, drawn with replacement, in random order, [P, 2].

    Groups of one row give no pairs.
    """
    drawn = []
    for name in group.unique():
        rows = (group == name).nonzero().squeeze(-1)
        if len(rows) < 2:
            continue
        first = torch.randint(len(rows), (per_group,), generator=generator)
        shift = torch.randint(1, len(rows), (per_group,), generator=generator)
        drawn.append(torch.stack([rows[first.to(rows)], rows[((first + shift) % len(rows)).to(rows)]], -1))
    return torch.cat(drawn) if drawn else group.new_empty((0, 2))


def annotated(batch: Batch, pairs: Tensor, annotator: Annotator) -> Batch:
    """The batch with these `pairs` [P, 2] and the annotator's `pair_label` [P]."""
    return batch.replace(pairs=pairs, pair_label=annotator(batch, pairs))


def segment_pairs(segments: Batch, annotator: Annotator, count: int, seed: int) -> PairDataset:
    """`count` random pairs of segments with the annotator's labels, as a dataset to draw from.

    Without `group` in the batch any two segments may be compared. Raises `UserError` for fewer than two segments.
    """
    if len(segments) < 2:
        raise UserError(f"comparing segments needs at least 2 of them, not {len(segments)}")
    everyone = torch.zeros(len(segments), dtype=torch.long)
    pairs = random_pairs(everyone, count, torch.Generator().manual_seed(seed))
    return PairDataset(segments, pairs, annotator(segments, pairs), seed)


def answers(records: Sequence[PairRecord]) -> tuple[list[Text], list[Text], Tensor]:
    """Records as rows: prompts [2R] (each twice), answers [2R] (chosen, rejected, ...), pairs [R, 2] chosen first.

    A domain turns the texts into tokens; with `pair_label` absent or 1, the first of each pair is preferred.
    """
    prompts = [record.prompt for record in records for _ in range(2)]
    texts = [text for record in records for text in (record.chosen, record.rejected)]
    return prompts, texts, torch.arange(2 * len(records)).reshape(-1, 2)

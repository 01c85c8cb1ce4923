"""Means over the rows of one source, where a batch mixes several."""

from torch import Tensor

from unirl.batch import Batch


def of_source(batch: Batch, source: int) -> Batch:
    """The batch with the rows of other sources masked. Reads `source` [N]."""
    return batch.replace(mask=(batch.source == source)[:, None] & batch.mask)


def share_of(batch: Batch, source: int) -> Tensor:
    """[N, T]: 0 in rows of other sources, else (masked decisions) / (masked decisions of this source).

    A loss times this has, under a mean over all decisions, the mean over this source's; without any of its rows it is
    0 throughout. Reads `source` [N].
    """
    return _share(batch, of_source(batch, source).mask)


def share_of_others(batch: Batch, source: int) -> Tensor:
    """The same for the rows of all sources but this one, together. Reads `source` [N]."""
    return _share(batch, (batch.source != source)[:, None] & batch.mask)


def _share(batch: Batch, chosen: Tensor) -> Tensor:
    share: Tensor = chosen * (batch.mask.sum() / chosen.sum().clamp(min=1))
    return share

"""Dropping whole rows by giving them weight 0."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.reduce.masked import Groups
from unirl.registry import register


@register("selection", "valid_groups")
@dataclass(frozen=True)
class ValidGroups:
    r"""Weight 0 for groups whose scores are all equal: they teach nothing when rows are compared within groups.

    .. math:: w_{it} \leftarrow w_{it}\, \mathbb 1\big[\max_{g(i)} s - \min_{g(i)} s > \text{tolerance}\big]

    A row alone in its group is dropped. Nothing is renormalised. Reads `score`, `group` [N]; fills `weight` [N, T].
    Source: the filter of DAPO's dynamic sampling (Yu et al. 2025).
    """

    tolerance: float = 0.0
    reads = ("score", "group")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `weight` changed."""
        groups = Groups(batch.group)
        spread = groups.max(batch.score) - groups.min(batch.score)
        return keep_rows(batch, spread > self.tolerance)


@register("selection", "row_filter")
@dataclass(frozen=True)
class RowFilter:
    r"""Weight 0 for rows whose `field` lies outside [minimum, maximum] (either bound may be absent).

    `field`: a field with one number per row, such as `score`, `source` or `rewards.accuracy`. NaN is outside. Fills
    `weight` [N, T]. Raises `UserError` for a field with more than one number per row.
    """

    field: str = "score"
    minimum: float | None = None
    maximum: float | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The field that decides."""
        return (self.field,)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `weight` changed."""
        head, _, tail = self.field.partition(".")
        value = getattr(batch, head)[tail] if tail else getattr(batch, head)
        if value.dim() != 1:
            raise UserError(f"selection 'row_filter': `{self.field}` is not one number per row; choose e.g. score")
        keep = value == value
        if self.minimum is not None:
            keep = keep & (value >= self.minimum)
        if self.maximum is not None:
            keep = keep & (value <= self.maximum)
        return keep_rows(batch, keep)


@register("selection", "of_source")
@dataclass(frozen=True)
class OfSource:
    """Weight 0 for rows of any other source, such as the opponent's rows in self-play.

    `source`: the number that the batch's source gave to the rows to train on. Reads `source` [N]; fills `weight`
    [N, T].
    """

    source: int = 0
    reads = ("source",)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `weight` changed."""
        return keep_rows(batch, batch.source == self.source)


def keep_rows(batch: Batch, keep: Tensor) -> Batch:
    """The batch with `weight` multiplied by 0 in the rows where `keep` [N] is false."""
    weight = batch.get("weight", torch.ones(batch.mask.shape, device=batch.mask.device))
    return batch.replace(weight=weight * keep[:, None])

"""Sums and means over masked decisions and over groups of rows, shared by the parts."""

import torch
from torch import Tensor


def row_sums(values: Tensor, mask: Tensor) -> Tensor:
    """[N, T] -> [N]: the sum over each row's masked decisions; what lies outside the mask may be anything, even NaN."""
    return torch.where(mask, values, 0).sum(1)


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """[N, T] -> [N]: the mean over each row's masked decisions, 0 for a row without any."""
    return row_sums(values, mask) / mask.sum(1).clamp(min=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[N, T] -> scalar: the mean over all masked decisions, 0 where there is none."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def last_decision(mask: Tensor) -> Tensor:
    """[N, T] bool -> [N, T] bool: true at the last masked decision of each row."""
    return mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))


class Groups:
    """Rows that share an identifier: sums and extremes over a group, given back to each of its rows."""

    def __init__(self, identifiers: Tensor) -> None:
        _, self.index, counts = torch.unique(identifiers, return_inverse=True, return_counts=True)
        self.count = len(counts)
        self.size = counts[self.index]  # [N]: how many rows are in the row's group

    def sum(self, values: Tensor) -> Tensor:
        """[N] -> [N]: the sum over the row's group."""
        return values.new_zeros(self.count).index_add(0, self.index, values)[self.index]

    def max(self, values: Tensor) -> Tensor:
        """[N] -> [N]: the largest value in the row's group."""
        empty = values.new_zeros(self.count)
        return empty.scatter_reduce(0, self.index, values, "amax", include_self=False)[self.index]

    def min(self, values: Tensor) -> Tensor:
        """[N] -> [N]: the smallest value in the row's group."""
        empty = values.new_zeros(self.count)
        return empty.scatter_reduce(0, self.index, values, "amin", include_self=False)[self.index]


class Units:
    """Masked decisions of a row that share a number, such as a turn: what they have in common, given to each."""

    def __init__(self, number: Tensor, mask: Tensor) -> None:
        """`number` [N, T] tells the units of a row apart; what it holds outside `mask` does not matter."""
        different, place = torch.unique(torch.where(mask, number, 0), return_inverse=True)
        rows = torch.arange(len(mask), device=mask.device)[:, None]
        self._mask, self._index = mask, (rows * len(different) + place).reshape(-1)
        self._count = len(mask) * len(different)
        self.size = self.sum(mask.float()).clamp(min=1)  # [N, T]: how many decisions the decision's unit has

    def sum(self, values: Tensor) -> Tensor:
        """[N, T] -> [N, T]: the sum over the masked decisions of each decision's unit."""
        masked = torch.where(self._mask, values, 0).reshape(-1)
        totals = masked.new_zeros(self._count).index_add(0, self._index, masked)
        return totals[self._index].view_as(values)

    def first(self) -> Tensor:
        """[N, T] bool: true at the first masked decision of each unit."""
        return self._at_the_end("amin")

    def last(self) -> Tensor:
        """[N, T] bool: true at the last masked decision of each unit."""
        return self._at_the_end("amax")

    def _at_the_end(self, which: str) -> Tensor:
        column = torch.arange(self._mask.shape[1], device=self._mask.device).expand_as(self._mask)
        nowhere = self._mask.shape[1] if which == "amin" else -1
        placed = torch.where(self._mask, column, nowhere).reshape(-1)
        ends = placed.new_full((self._count,), nowhere).scatter_reduce(0, self._index, placed, which)
        return self._mask & (column == ends[self._index].view_as(column))

    def of_first(self, values: Tensor) -> Tensor:
        """[N, T] -> [N, T]: what the first decision of each decision's unit has."""
        return self.sum(torch.where(self.first(), values, 0))

    def of_last(self, values: Tensor) -> Tensor:
        """[N, T] -> [N, T]: what the last decision of each decision's unit has."""
        return self.sum(torch.where(self.last(), values, 0))

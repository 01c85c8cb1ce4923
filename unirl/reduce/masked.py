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

"""A weighted mean of sorted values: pessimism without a single worst head (Symphony [177])."""

from functools import cache

import torch
from torch import Tensor

from unirl.golden import PHI, plateau


@cache
def order_weights(count: int) -> Tensor:
    r"""Weights of the values in ascending order, [count], adding up to 1.

    .. math:: p_i \propto \exp\big(-(\varphi\,|1 - \varphi/2 - i/q|)^{2e}\big), \quad i = 0, \ldots, q - 1

    Low and middle values count fully, the largest third hardly.
    """
    weights = plateau(torch.arange(count, dtype=torch.float64) / count, 1 - PHI / 2)
    return weights / weights.sum()


def ordered_mean(values: Tensor) -> Tensor:
    """[heads, N, T] -> [N, T]: the values sorted over heads, weighted by `order_weights`."""
    weights = order_weights(len(values)).to(values)
    ordered: Tensor = torch.tensordot(weights, values.sort(0).values, 1)
    return ordered

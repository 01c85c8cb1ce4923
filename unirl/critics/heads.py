"""Joining the heads of an ensemble of critics into one value."""

from torch import Tensor

from unirl.errors import unknown

AGGREGATES = ("min", "mean", "first")


def over_heads(values: Tensor, how: str) -> Tensor:
    """[heads, N, T] -> [N, T]: the smallest, the mean or the first head; [N, T] is returned as it is."""
    if values.dim() == 2:
        return values
    if how == "min":
        return values.amin(0)
    return values.mean(0) if how == "mean" else values[0]


def check_aggregate(how: str, what: str) -> None:
    """Raise `UserError` with near matches unless `how` is one of `AGGREGATES`."""
    if how not in AGGREGATES:
        raise unknown(what, str(how), AGGREGATES)

"""Joining the heads of an ensemble of critics into one value."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unirl.batch import Batch
from unirl.critics.order_statistics import ordered_mean
from unirl.critics.returns import Atoms, GaussianReturns
from unirl.errors import UserError, unknown

AGGREGATES = ("min", "mean", "first", "ordered", "{lower: BETA}")
SPREADS = ("heads", "predicted")
Aggregate = str | Mapping[str, Any]
"""How heads are joined: "min", "mean", "first", "ordered", or `{lower: beta}`, their mean less beta times their spread.

"ordered" sorts the heads (or nodes) and weighs low and middle ones, see `unirl.critics.order_statistics`.

The spread of `{lower: beta, spread: heads}` is the disagreement of the heads, their population standard deviation.
With `spread: predicted` it is that of the mixture of the heads' Gaussians, where critics predict a spread: variance
within heads plus variance between them. beta > 0 is pessimistic, beta < 0 optimistic.
"""


def over_heads(values: Tensor, how: Aggregate) -> Tensor:
    """[heads, N, T] -> [N, T]: the heads joined; [N, T] is returned as it is."""
    if values.dim() == 2:
        return values
    if isinstance(how, Mapping):
        return Atoms(values).lower(how["lower"])
    if how == "min":
        return values.amin(0)
    if how == "ordered":
        return ordered_mean(values)
    return values.mean(0) if how == "mean" else values[0]


def joined(batch: Batch, field: str, how: Aggregate) -> Tensor:
    """A field's heads joined, [N, T], with their predicted spread where `how` asks for it."""
    if not reads_spread(how):
        return over_heads(getattr(batch, field), how)
    assert isinstance(how, Mapping)
    return GaussianReturns(getattr(batch, field), getattr(batch, f"{field}_std")).mixture().lower(how["lower"])


def reads_spread(how: Aggregate) -> bool:
    """Whether the field's `..._std` is needed to join its heads."""
    return isinstance(how, Mapping) and how.get("spread") == "predicted"


def fields_of(field: str, how: Aggregate) -> tuple[str, ...]:
    """The fields that `joined` reads."""
    return (field, f"{field}_std") if reads_spread(how) else (field,)


def check_aggregate(how: Aggregate, what: str, predicted: bool = False) -> None:
    """Raise `UserError` with near matches unless `how` is an `Aggregate`, with predicted spreads where these exist."""
    if not isinstance(how, Mapping):
        if how not in AGGREGATES[:-1]:
            raise unknown(what, str(how), AGGREGATES)
        return
    for key in how:
        if key not in ("lower", "spread"):
            raise unknown(f"key of the {what}", str(key), ("lower", "spread"))
    if isinstance(how.get("lower"), bool) or not isinstance(how.get("lower"), int | float):
        raise UserError(f"{what}: {dict(how)} gives no number for `lower`; write for example {{lower: 0.5}}")
    if how.get("spread", "heads") not in (SPREADS if predicted else SPREADS[:1]):
        raise unknown(f"spread of the {what}", str(how["spread"]), SPREADS if predicted else SPREADS[:1])

r"""What a loss per decision is summed with and divided by.

Every reduction is a weighted sum over an explicit divisor,

.. math:: L = \frac{1}{D} \sum_{i,t} m_{it}\, w_{it}\, \ell_{it} / d_i,

with the mask m, the batch's `weight` w (1 where absent) and a divisor d_i of the row, which is the row's number of
masked decisions for `sequence_mean` and 1 otherwise. The divisor D is `batch.divisor` where that field is present and
`divisor(batch)` otherwise. Computed once for a minibatch and stored in all its micro-batches, it makes their losses,
and gradients, add up to exactly the minibatch's. Weights never enter the divisor: dropping decisions does not enlarge
the others.

Losses with one dimension are per row [N] or per pair [P]: they are summed and divided by `batch.unit_divisor`, the
number of rows or pairs of the whole minibatch (their own number where absent); decision weights do not apply to them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.registry import register


class Reduction:
    """The common sum; a subclass says what it divides by and how much a row weighs."""

    rowwise = False  # whether the number of rows matters, so that rows must stay whole in the update
    reads: tuple[str, ...] = ()

    def divisor(self, batch: Batch) -> Tensor:
        """What the sum is divided by when the batch does not say: a scalar of at least 1."""
        decisions: Tensor = batch.mask.sum()
        return decisions.clamp(min=1)

    def within_rows(self, values: Tensor, batch: Batch) -> Tensor:
        """The values [N, T] divided by d_i of their row."""
        return values

    def __call__(self, per_decision: Tensor, batch: Batch) -> Tensor:
        """The scalar loss of values per decision [N, T], per row [N] or per pair [P]."""
        short = per_decision.dtype.itemsize < torch.float32.itemsize  # half precision does not hold long sums
        values = per_decision.float() if short else per_decision
        if values.dim() == 1:
            mean: Tensor = values.sum() / batch.get("unit_divisor", max(len(values), 1))
            return mean
        if "weight" in batch:
            values = values * batch.weight
        total = torch.where(batch.mask, self.within_rows(values, batch), 0).sum()
        divisor: Tensor = batch.divisor if "divisor" in batch else self.divisor(batch)
        return total / divisor


@register("reduce", "token_mean")
@dataclass(frozen=True)
class TokenMean(Reduction):
    r"""Mean over all masked decisions of the batch: a row weighs as much as it is long.

    .. math:: L = \sum_{it} m_{it} w_{it} \ell_{it} \big/ \sum_{it} m_{it}

    Takes [N, T] (or [N], [P]: see the module) and gives a scalar. Source: DAPO (Yu et al. 2025) for language; the
    usual mean over a minibatch of environment steps in control.
    """


class _OverRows(Reduction):
    """Divides by the number of rows."""

    rowwise = True

    def divisor(self, batch: Batch) -> Tensor:
        """The number of rows."""
        return torch.tensor(float(max(len(batch), 1)), device=batch.device)


@register("reduce", "sequence_mean")
@dataclass(frozen=True)
class SequenceMean(_OverRows):
    r"""Mean over rows of the mean over each row's masked decisions: every row weighs the same.

    .. math:: L = \frac1N \sum_i \frac{1}{\sum_t m_{it}} \sum_t m_{it} w_{it} \ell_{it}

    A row without masked decisions adds 0 and is still counted. Source: GRPO (Shao et al. 2024).
    """

    def within_rows(self, values: Tensor, batch: Batch) -> Tensor:
        """The values [N, T] divided by the row's number of masked decisions."""
        length: Tensor = batch.mask.sum(1, keepdim=True)
        return values / length.clamp(min=1)


@register("reduce", "sequence_sum")
@dataclass(frozen=True)
class SequenceSum(_OverRows):
    r"""Mean over rows of the sum over each row's masked decisions: the likelihood of whole rows.

    .. math:: L = \frac1N \sum_i \sum_t m_{it} w_{it} \ell_{it}

    Source: REINFORCE (Williams 1992) over whole episodes or responses.
    """


@register("reduce", "constant")
@dataclass(frozen=True)
class Constant(_OverRows):
    r"""Sum over masked decisions divided by a fixed length per row, whatever the rows' own lengths.

    .. math:: L = \frac{1}{N\,\text{length}} \sum_{it} m_{it} w_{it} \ell_{it}

    `length`: decisions, usually the largest a row may have. Raises `UserError` unless it is positive. Source: Dr.
    GRPO (Liu et al. 2025), which shows that dividing by the row's own length favours long wrong answers.
    """

    length: float

    def __post_init__(self) -> None:
        if self.length <= 0:
            raise UserError(
                f"reduce 'constant': length is {self.length}; give the largest number of decisions of a row"
            )

    def divisor(self, batch: Batch) -> Tensor:
        """The number of rows times `length`."""
        return super().divisor(batch) * self.length

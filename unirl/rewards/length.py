"""Rewards for the length of a row, its number of masked decisions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.registry import register


@register("reward", "length_cosine")
@dataclass(frozen=True)
class LengthCosine:
    r"""Replaces right and wrong by rewards that follow a half cosine of the length.

    .. math:: s = r_L + \tfrac12 (r_0 - r_L) (1 + \cos(\pi n / \text{max\_length}))

    r_0 is the reward at length 0 and r_L that at `max_length`: a correct row earns from 2 down to 1, so shorter is
    better; a wrong one from -10 up to 0, so that it pays to think longer. A row of `max_length` decisions or more
    gets `exceed` whatever it says, if `exceed` is not None (then the length is cut at max_length). Correct means
    `score` >= `threshold`.

    Reads `score` [N] and the mask; fills `score`. Defaults are the paper's. Raises `UserError` unless max_length >
    0. Source: Yeo et al. 2025.
    """

    max_length: int = 4096
    correct_start: float = 2.0
    correct_end: float = 1.0
    wrong_start: float = -10.0
    wrong_end: float = 0.0
    exceed: float | None = -10.0
    threshold: float = 0.5
    reads = ("score",)

    def __post_init__(self) -> None:
        _positive("length_cosine", "max_length", self.max_length)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `score` changed."""
        length, correct = _lengths(batch), batch.score >= self.threshold
        near = (1 + (math.pi * length.clamp(max=self.max_length) / self.max_length).cos()) / 2
        right = self.correct_end + (self.correct_start - self.correct_end) * near
        wrong = self.wrong_end + (self.wrong_start - self.wrong_end) * near
        score = torch.where(correct, right, wrong)
        if self.exceed is not None:
            score = score.masked_fill(length >= self.max_length, self.exceed)
        return batch.replace(score=score)


@register("reward", "length")
@dataclass(frozen=True)
class Length:
    r"""Subtracts the distance of the length from a target.

    .. math:: s \leftarrow s - \text{coef}\, |n - \text{target}|

    `coef` 3e-4 per decision is the source's. Reads `score` [N] and the mask; fills `score`. Raises `UserError` for
    a negative target. Source: L1-Exact (Aggarwal & Welleck 2025).
    """

    target: int
    coef: float = 3e-4
    reads = ("score",)

    def __post_init__(self) -> None:
        if self.target < 0:
            raise UserError(f"reward 'length': target is {self.target}; it is a number of decisions")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `score` changed."""
        return batch.replace(score=batch.score - self.coef * (_lengths(batch) - self.target).abs())


@register("reward", "overlong")
@dataclass(frozen=True)
class Overlong:
    r"""Subtracts a penalty that grows linearly over the last `buffer` decisions before `max_length`.

    .. math::

        s \leftarrow s - \text{coef} \cdot
        \mathrm{clip}\Big(\frac{n - (\text{max\_length} - \text{buffer})}{\text{buffer}}, 0, 1\Big)

    Reads `score` [N] and the mask; fills `score`. Raises `UserError` unless 0 < buffer <= max_length. Source:
    DAPO's soft overlong punishment (Yu et al. 2025), whose 20 480 and 4 096 are the defaults.
    """

    max_length: int = 20_480
    buffer: int = 4096
    coef: float = 1.0
    reads = ("score",)

    def __post_init__(self) -> None:
        _positive("overlong", "buffer", self.buffer)
        if self.buffer > self.max_length:
            raise UserError(f"reward 'overlong': buffer {self.buffer} is longer than max_length {self.max_length}")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `score` changed."""
        excess = (_lengths(batch) - (self.max_length - self.buffer)) / self.buffer
        return batch.replace(score=batch.score - self.coef * excess.clamp(0, 1))


def _lengths(batch: Batch) -> Tensor:
    """The number of masked decisions of every row, [N], as a float of the score's precision."""
    kind = batch.score.dtype if batch.score.is_floating_point() else torch.get_default_dtype()
    lengths: Tensor = batch.mask.sum(1).to(kind)
    return lengths


def _positive(part: str, name: str, given: float) -> None:
    if given <= 0:
        raise UserError(f"reward '{part}': {name} is {given}; it is a number of decisions above 0")

"""Scores from comparisons with an opponent."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.registry import register


@register("reward", "win_rate")
@dataclass(frozen=True)
class WinRate:
    r"""A row's score is how often it is preferred to the rows it was compared with, minus one half.

    .. math::

        s_a = \mathrm{mean}_{(a,b)}\, (p_{ab} - \tfrac12), \qquad s_b = \mathrm{mean}_{(a,b)}\, (\tfrac12 - p_{ab})

    The mean runs over all pairs in which the row takes part, on either side; a row in no pair scores 0. One half is
    the value of the symmetric game, so the score is an advantage over an equal opponent. Reads `pairs` [P, 2] and
    `pair_label` [P]; fills `score` [N] in [-1/2, 1/2]. Source: Nash-MD [70] (Munos et al. 2024).
    """

    reads = ("pairs", "pair_label")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `score` changed."""
        margin: Tensor = batch.pair_label.detach() - 0.5
        first, second = batch.pairs.unbind(1)
        zeros = margin.new_zeros(len(batch))
        total = zeros.index_add(0, first, margin).index_add(0, second, -margin)
        games = zeros.index_add(0, batch.pairs.reshape(-1), margin.new_ones(batch.pairs.numel()))
        return batch.replace(score=total / games.clamp(min=1))

"""Making preference pairs out of scored rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.registry import register

PAIRINGS = ("best_worst", "all", "adjacent")
LABELS = ("hard", "bradley_terry")


@register("selection", "pair_by_score")
@dataclass(frozen=True)
class PairByScore:
    r"""Pairs of rows of the same group, the one with the higher score first; ties make no pair.

    `pairing`: "best_worst" gives one pair per group, "all" every pair, "adjacent" the neighbours in the order of
    scores. `label`: "hard" labels every pair 1, "bradley_terry" labels it sigma((s_a - s_b) / temperature).

    Equal scores are ordered by row number. Reads `score`, `group` [N]; fills `pairs` [P, 2] (sorted by group, best
    first; P may be 0) and `pair_label` [P], replacing earlier ones; weights play no part. Raises `UserError` for
    unknown options and unless temperature > 0.
    """

    pairing: str = "best_worst"
    label: str = "hard"
    temperature: float = 1.0
    reads = ("score", "group")

    def __post_init__(self) -> None:
        if self.pairing not in PAIRINGS:
            raise unknown("pairing of selection 'pair_by_score'", str(self.pairing), PAIRINGS)
        if self.label not in LABELS:
            raise unknown("label of selection 'pair_by_score'", str(self.label), LABELS)
        if self.temperature <= 0:
            raise UserError(f"selection 'pair_by_score': temperature is {self.temperature}; it must be positive")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `pairs` and `pair_label` filled."""
        score, group = batch.score.detach(), batch.group
        ranked = score.argsort(descending=True, stable=True)
        ranked = ranked[group[ranked].argsort(stable=True)]  # by group, best first
        pairs = ranked[self._positions(group[ranked])]
        margin = score[pairs[:, 0]] - score[pairs[:, 1]]
        pairs, margin = pairs[margin > 0], margin[margin > 0]
        margin = margin if margin.is_floating_point() else margin.to(torch.get_default_dtype())
        hard = self.label == "hard"
        label = torch.ones_like(margin) if hard else (margin / self.temperature).sigmoid()
        return batch.replace(pairs=pairs, pair_label=label)

    def _positions(self, group: Tensor) -> Tensor:
        """Which positions of the ranking are compared, [P, 2], for groups that lie together."""
        place = torch.arange(len(group), device=group.device)
        if self.pairing == "all":
            earlier = place[:, None] < place[None, :]
            return (earlier & (group[:, None] == group[None, :])).nonzero()
        if self.pairing == "adjacent":
            return torch.stack([place[:-1], place[1:]], 1)[group[:-1] == group[1:]]
        _, sizes = torch.unique_consecutive(group, return_counts=True)
        last = sizes.cumsum(0) - 1
        return torch.stack([last - sizes + 1, last], 1)

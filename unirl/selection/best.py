"""Keeping the best rows of a group: rejection sampling, the re-ranking step of policy-agnostic RL."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.reduce.masked import Groups
from unirl.registry import register


@register("selection", "best_of_group")
@dataclass(frozen=True)
class BestOfGroup:
    r"""Train on the `keep` rows of each group with the highest scores, weighted by the softmax of their scores.

    .. math:: w_i \leftarrow w_i \frac{e^{s_i / \tau}}{\sum_{j \in \mathrm{top}_k(g(i))} e^{s_j / \tau}}
        \text{ for } i \in \mathrm{top}_k(g(i)), \text{ otherwise } 0

    `keep` 1 (the default) trains on the winner alone (best of n, rejection sampling); `temperature` tau = 1 is the
    paper's. Of equal scores the earlier row ranks first. The weights of a group add up to 1 however many rows it has.
    With `log_likelihood` it is what remains of policy-agnostic RL where an action is a text and has no slope.

    Reads `score`, `group` [N]; fills `weight` [N, T]. Raises `UserError` unless keep >= 1 and temperature > 0.
    Source: policy-agnostic RL (Mark et al. 2024) [221].
    """

    keep: int = 1
    temperature: float = 1.0
    reads = ("score", "group")

    def __post_init__(self) -> None:
        if self.keep < 1 or self.temperature <= 0:
            raise UserError(
                f"selection 'best_of_group': keep is {self.keep} and temperature {self.temperature}; give keep >= 1 "
                "and a positive temperature"
            )

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `weight` changed."""
        groups = Groups(batch.group)
        score = batch.score.to(torch.promote_types(batch.score.dtype, torch.float32)) / self.temperature
        kept = rank_in_group(score, batch.group) < self.keep
        size = torch.where(kept, (score - groups.max(score)).exp(), 0.0)
        weight = batch.get("weight", torch.ones_like(batch.mask, dtype=size.dtype))
        return batch.replace(weight=weight * (size / groups.sum(size))[:, None])


def rank_in_group(score: Tensor, group: Tensor) -> Tensor:
    """[N] -> [N]: the place of each row among the rows of its group by falling score, from 0."""
    ranked = score.argsort(descending=True, stable=True)
    ranked = ranked[group[ranked].argsort(stable=True)]  # by group, best first
    _, sizes = torch.unique_consecutive(group[ranked], return_counts=True)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return torch.empty_like(ranked).scatter(0, ranked, torch.arange(len(ranked), device=score.device) - starts)

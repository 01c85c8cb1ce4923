"""A large ensemble of critics, of which each target takes the minimum over a few."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.q import SoftQ
from unirl.domain import QSpec
from unirl.errors import UserError
from unirl.registry import register


@register("critic", "subset_q")
class SubsetQ(SoftQ):
    r"""Soft temporal-difference regression on the minimum over a random subset of the target critics.

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \big[\min_{k \in M} \bar Q_k(s', a') - \alpha \log\pi(a'|s')\big]

    M is drawn anew for every minibatch, without replacement: the size of the ensemble lowers the variance of targets,
    the size of the subset their bias. That lets a method take many updates per step of the world.

    heads, subset: 10 critics, 2 in M (REDQ).
    seed: of the draws.
    gamma, tau, half, layer_norm, dropout, coef: as in critic `soft_q`.

    Reads `q_data`, `next_q` [heads, N, T], `next_logp`, `reward`, `terminated` [N, T] and `temperature`. Raises
    `UserError` unless 1 <= subset <= heads. Source: REDQ (Chen et al. 2021).
    """

    def __init__(
        self,
        *,
        heads: int = 10,
        subset: int = 2,
        gamma: float = 0.99,
        tau: float = 0.005,
        half: bool = True,
        seed: int = 0,
        layer_norm: bool = False,
        dropout: float = 0.0,
        coef: float = 1.0,
    ) -> None:
        if not 1 <= subset <= heads:
            raise UserError(f"critic 'subset_q': a subset of {subset} out of {heads} heads; it is 1 to {heads}")
        super().__init__(
            heads=heads, gamma=gamma, tau=tau, half=half, layer_norm=layer_norm, dropout=dropout, coef=coef
        )
        self.subset = subset
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def spec(self) -> QSpec:
        """An ensemble whose heads stay apart until some of them are drawn."""
        return replace(super().spec, join=None)

    def _next(self, batch: Batch) -> Tensor:
        drawn = torch.randperm(self.heads, generator=self._generator)[: self.subset]
        value: Tensor = batch.next_q[drawn.to(batch.next_q.device)].amin(0) - batch.temperature * batch.next_logp
        return value

    def state_dict(self) -> dict[str, Any]:
        """The generator of subsets."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._generator.set_state(state["generator"])

"""A penalty that keeps critics low where the data has no decisions."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unirl.batch import Batch
from unirl.domain import Requirements
from unirl.errors import UserError
from unirl.registry import register


@register("critic", "conservative")
class Conservative:
    r"""Lowers the critics' soft maximum over actions and raises them at the recorded action (CQL).

    .. math:: R = \sum_k \Big[\lambda \log \frac1M \sum_{i \leq M} \frac{e^{Q_k(s, a_i) / \lambda}}{\mu(a_i|s)}
        - Q_k(s, a)\Big]

    The candidates a_i come in equal number (`candidates`, 10) from the uniform distribution, the policy at this state
    and the policy at the next state; mu is the density that each was drawn from, so that the sum estimates the
    integral over all actions. Of choices all are candidates and the sum is exact. lambda is `temperature`, `coef` the
    weight beside the temporal-difference loss of critic `q` (5: the authors' code on MuJoCo, whose squared error has
    no factor 1/2).

    `threshold`: learn the weight instead, `coef` times alpha, by dual ascent on R <= threshold per head. alpha starts
    at 1 and rises while the penalty is above the threshold; it is stepped with the critics and at their rate, as in the
    authors' code. Implementations that leave out the 1/M have thresholds larger by log M (3.4 for 30 candidates).

    .. math:: \ell = \mathrm{sg}(\alpha)\, R - \alpha\, \mathrm{sg}(R - \text{threshold})

    `calibrated`: critics need not fall below the recorded return to go: max(Q_k(s, a_i), `returns`) takes the place of
    Q_k(s, a_i) for candidates of the policy (Cal-QL; the data needs `gamma`).

    Reads `model.candidate_q` [N, T, M, heads], `model.candidate_logp` [N, T, M] (log mu), `q_data` [heads, N, T] and,
    calibrated, `returns` and `model.candidate_own` [N, T, M], 1 where the policy made the candidate; gives [N, T],
    summed over heads. Sources: CQL (Kumar et al. 2020; learned weight: its appendix), Cal-QL (Nakamoto et al. 2023).
    """

    loss_name = "q"

    def __init__(
        self,
        *,
        candidates: int = 10,
        temperature: float = 1.0,
        threshold: float | None = None,
        calibrated: bool = False,
        coef: float = 5.0,
    ) -> None:
        if candidates < 1 or temperature <= 0:
            raise UserError(
                f"critic 'conservative': candidates is {candidates}, temperature {temperature}; both must be positive"
            )
        self.candidates, self.temperature, self.calibrated, self.coef = candidates, temperature, calibrated, coef
        self.threshold = threshold
        self.log_alpha = nn.Parameter(torch.zeros(()))

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        floor = ("returns", "model.candidate_own") if self.calibrated else ()
        return ("model.candidate_q", "model.candidate_logp", "q_data", *floor)

    def requirements(self) -> Requirements:
        """The domain's candidate actions."""
        return Requirements(models={"candidate_actions": {"each": self.candidates}})

    def parameters(self) -> list[nn.Parameter]:
        """The logarithm of alpha, where it is learned."""
        return [] if self.threshold is None else [self.log_alpha]

    def strength(self) -> float | None:
        """alpha, for the log; None where it is fixed."""
        return None if self.threshold is None else float(self.log_alpha.detach().exp())

    def state_dict(self) -> dict[str, Any]:
        """The logarithm of alpha."""
        return {"log_alpha": self.log_alpha.detach().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore log alpha."""
        with torch.no_grad():
            self.log_alpha.copy_(torch.as_tensor(state["log_alpha"]))

    def loss(self, batch: Batch) -> Tensor:
        """The penalty summed over heads, [N, T], not reduced."""
        values: Tensor = batch.model["candidate_q"]
        if self.calibrated:
            own = batch.model["candidate_own"].bool().unsqueeze(-1)
            values = torch.where(own, torch.maximum(values, batch.returns[..., None, None]), values)
        log_mu = batch.model["candidate_logp"].unsqueeze(-1)
        soft = self.temperature * (torch.logsumexp(values / self.temperature - log_mu, -2) - math.log(values.shape[-2]))
        recorded: Tensor = batch.q_data if batch.q_data.dim() == 3 else batch.q_data[None]
        penalty: Tensor = soft.sum(-1) - recorded.sum(0)
        if self.threshold is None:
            return penalty
        alpha = self.log_alpha.exp()
        excess = penalty.detach() - self.threshold * len(recorded)
        return alpha.detach() * penalty - (alpha - alpha.detach()) * excess  # its value is that of the penalty

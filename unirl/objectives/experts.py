"""Policies of several experts: each follows the critic with an action of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import unknown
from unirl.registry import register

VARIANTS = ("paper", "released")


def expert_values(batch: Batch) -> Tensor:
    """Q(s, a_k), the smallest of the critics', [N, T, K]."""
    values: Tensor = batch.expert_q
    return values.amin(-1)


def best_expert(batch: Batch) -> Tensor:
    """One at the expert whose action has the largest value, the first of equal ones: [N, T, K], no gradient."""
    values = expert_values(batch).detach()
    return torch.nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)


@register("objective", "expert_value_gradient")
@dataclass(frozen=True)
class ExpertValueGradient:
    r"""Ascend the critic's value of every expert's own action ("back-prop-all").

    .. math:: \ell_t = -\sum_k \min_j Q_j(s_t, a_k), \qquad a_k \sim \text{expert } k

    `variant`: "released" trains only the expert with the largest value, as in code of one of the authors
    ("back-prop-max"). With one expert it is `value_gradient`.

    Reads `expert_q` [N, T, K, heads], gives [N, T]. Raises `UserError` for an unknown variant. Source: PMOE [69].
    """

    variant: str = "paper"
    level = "decision"
    reads = ("expert_q",)

    def __post_init__(self) -> None:
        check_variant(self.variant, "objective 'expert_value_gradient'")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        values = expert_values(batch)
        return -(values if self.variant == "paper" else best_expert(batch) * values).sum(-1)


def check_variant(variant: str, part: str) -> None:
    """Raise `UserError` with near matches unless `variant` is one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise unknown(f"variant of {part}", str(variant), VARIANTS)

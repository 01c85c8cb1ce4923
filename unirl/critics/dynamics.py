"""Learning from recorded decisions of a world and roll-outs in a simulator of it that is wrong (H2O [175]).

`Batch.source` tells them apart: 2 is recorded (real), 0 simulated, as source `hybrid` gives them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unirl.batch import POLICY as SIMULATED
from unirl.batch import RECORDED as REAL
from unirl.batch import Batch
from unirl.critics.q import Q
from unirl.domain import Requirements
from unirl.errors import UserError, unknown
from unirl.reduce.of_source import share_of
from unirl.registry import register

VARIANTS = ("log_sum_exp", "mean")
BOUND = 1000.0  # of the penalty, either way
_MODELS: Mapping[str, Mapping[str, Any]] = {"dynamics_classifier": {}}


@register("critic", "dynamics_q")
class DynamicsQ(Q):
    r"""Temporal-difference regression in which simulated transitions count as far as the world would make them.

    .. math:: \ell = \underset{real}{\mathrm{mean}} \sum_k (Q_k - y)^2 + \underset{sim}{\mathrm{mean}}\
        \mathrm{clip}\Big(\frac{P_{real}(s'|s, a)}{P_{sim}(s'|s, a)}, c_{lo}, c_{hi}\Big) \sum_k (Q_k - y)^2

    Under a mean over all decisions: each row's error times its source's share. The target y and the other
    hyper-parameters are those of critic `q`. ratio_clip: [1e-5, 1]. Reads what critic `q` reads, `source` [N] and
    `estimate.dynamics_ratio` [N, T]; gives [N, T]. Raises `UserError` unless 0 <= c_lo <= c_hi. Source: H2O [175] (Niu
    et al. 2022); its code multiplies Q and y by the root of the ratio, which is the same.
    """

    def __init__(self, *, ratio_clip: Sequence[float] = (1e-5, 1.0), **options: Any) -> None:
        super().__init__(**options)
        low, high = ratio_clip
        if not 0 <= low <= high:
            raise UserError(f"critic 'dynamics_q': ratio_clip is {list(ratio_clip)}; give [low, high], low >= 0")
        self.ratio_clip = (float(low), float(high))

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return (*super().reads, "source", "estimate.dynamics_ratio")

    def requirements(self) -> Requirements:
        """Critics, and classifiers of the source."""
        return super().requirements().and_also(Requirements(models=_MODELS))

    def loss(self, batch: Batch) -> Tensor:
        """The weighted regression loss summed over heads, [N, T], not reduced."""
        ratio = batch.estimate["dynamics_ratio"].clamp(*self.ratio_clip)
        weight: Tensor = share_of(batch, REAL) + share_of(batch, SIMULATED) * ratio
        return super().loss(batch) * weight


@register("critic", "dynamics_gap")
class DynamicsGap:
    r"""Lowers critics at simulated pairs whose dynamics are off, and raises them at recorded ones.

    .. math:: R = \sum_k \mathrm{clip}\Big(\log \sum_{i \in sim} \omega_i e^{Q_k(s_i, a_i)}
        - \underset{real}{\mathrm{mean}}\ Q_k(s, a),\ \pm 1000\Big), \qquad \omega_i = \frac{u_i}{\sum_{j \in sim} u_j}

    u is the gap between the dynamics, `estimate.dynamics_gap`: about KL(P_sim || P_real) at the pair. With variant
    "mean" the first term is :math:`\sum_i \omega_i Q_k`, its lower bound. `coef` is the paper's kappa, .01.

    A sum over the batch: every decision is given R, so that a mean over decisions is R. Reads `q_data` [heads, N, T],
    `source` [N] and `estimate.dynamics_gap` [N, T]; gives [N, T]. Without simulated or without recorded rows it is 0.
    Source: H2O [175] (Niu et al. 2022), after CQL.
    """

    loss_name = "q"
    reads = ("q_data", "source", "estimate.dynamics_gap")

    def __init__(self, *, variant: str = "log_sum_exp", coef: float = 0.01) -> None:
        if variant not in VARIANTS:
            raise unknown("variant of critic 'dynamics_gap'", str(variant), VARIANTS)
        self.variant, self.coef = variant, coef

    def requirements(self) -> Requirements:
        """Classifiers of the source."""
        return Requirements(models=_MODELS)

    def loss(self, batch: Batch) -> Tensor:
        """R for every decision, [N, T]."""
        values: Tensor = batch.q_data if batch.q_data.dim() == 3 else batch.q_data[None]
        simulated, real = (batch.mask & (batch.source == source)[:, None] for source in (SIMULATED, REAL))
        if not (bool(simulated.any()) and bool(real.any())):
            return torch.zeros_like(values[0])
        gap = batch.estimate["dynamics_gap"][simulated]
        lowered = self._lowered(values[:, simulated], gap)
        penalty = (lowered - values[:, real].mean(-1)).clamp(-BOUND, BOUND).sum()
        return penalty.expand_as(values[0])

    def _lowered(self, values: Tensor, gap: Tensor) -> Tensor:
        """What is pushed down in each head: [heads, M] values and M gaps -> [heads]."""
        if self.variant == "mean":
            return (gap / gap.sum() * values).sum(-1)
        return torch.logsumexp(values + gap.log() - gap.sum().log(), -1)


@register("critic", "dynamics_classifier")
class DynamicsClassifier:
    r"""Trains the classifiers that tell recorded from simulated pairs, and transitions.

    .. math:: \ell = -\log p(source|s, a) - \log p(source|s, a, s')

    Reads `model.source_logits` [N, T, 2, 2] (of pairs and of transitions; real and simulated) and `source` [N]; gives
    [N, T]. Source: H2O [175] (Niu et al. 2022), after DARC (Eysenbach et al. 2021).
    """

    loss_name = "dynamics_classifier"
    reads = ("model.source_logits", "source")

    def __init__(self, *, coef: float = 1.0) -> None:
        self.coef = coef

    def requirements(self) -> Requirements:
        """Classifiers of the source."""
        return Requirements(models=_MODELS)

    def loss(self, batch: Batch) -> Tensor:
        """Both cross-entropies, [N, T], not reduced."""
        logits: Tensor = batch.model["source_logits"]
        label = (batch.source != REAL).long()[:, None, None].expand(logits.shape[:-1])
        return F.cross_entropy(logits.flatten(0, -2), label.flatten(), reduction="none").view(label.shape).sum(-1)

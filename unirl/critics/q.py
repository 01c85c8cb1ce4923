"""State-action critics."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import Aggregate, check_aggregate, over_heads
from unirl.critics.regressions import make_regression
from unirl.domain import QSpec, Requirements, ValueSpec
from unirl.errors import unknown
from unirl.registry import register

BOOTSTRAPS = {"q": "next_q", "value": "next_value", "target_value": "next_target_value"}
SMOOTHING = ("std", "clip")
OPTIONS = (
    *("heads", "loss", "target", "gamma", "tau", "smoothing", "target_policy", "bootstrap"),
    *("layer_norm", "dropout", "half", "coef"),
)


@register("critic", "q")
class Q:
    r"""Temporal-difference regression of an ensemble of state-action critics.

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \cdot \mathrm{agg}_k \bar Q_k(s', a'), \qquad
        \ell = c \sum_k (Q_k(s, a) - y)^2

    A truncated episode is bootstrapped, a terminated one is not. The factor c is 1 (TD3, DDPG, IQL's paper) or 1/2
    with `half` (SAC's papers).

    heads: number of critics (2: TD3).
    loss: a part of kind `regression` ("mse", "huber", ...), whose hyper-parameters stand beside these.
    target: how the target critics are joined: "min", "mean", "first" or `{lower: beta}`, mean - beta std over heads.
        Where actions are choices, `q` and `next_q` are joined so choice by choice, before the expectation over choices.
    gamma, tau: discount and speed of the target networks, .99 and .005 (TD3, SAC).
    smoothing: {std, clip} of the clipped noise on the target action, in units of the action half-range (TD3: .2, .5).
    target_policy: whether a' comes from a slow copy of the policy (TD3).
    bootstrap: "q" uses the target critics of the policy's next action (`next_q`), "value" the state value
        `next_value` in their place (IQL), "target_value" that of its copy, which moves by tau too (SAC of 2018,
        off-policy MDPO).
    layer_norm, dropout: of the hidden layers.
    coef: factor on the loss.

    Reads `q_data` [heads, N, T], `reward`, `terminated` and what it bootstraps from. Raises `UserError` for
    unknown options. Sources: TD3 (Fujimoto et al. 2018), IQL (Kostrikov et al. 2022).
    """

    loss_name = "q"

    def __init__(
        self,
        *,
        heads: int = 2,
        loss: str = "mse",
        target: Aggregate = "min",
        gamma: float = 0.99,
        tau: float = 0.005,
        smoothing: Mapping[str, float] | None = None,
        target_policy: bool = False,
        bootstrap: str = "q",
        layer_norm: bool = False,
        dropout: float = 0.0,
        half: bool = False,
        coef: float = 1.0,
        **regression: Any,
    ) -> None:
        check_aggregate(target, "target of a critic")
        if bootstrap not in BOOTSTRAPS:
            raise unknown("bootstrap of a critic", str(bootstrap), BOOTSTRAPS)
        for key in smoothing or ():
            if key not in SMOOTHING:
                raise unknown("smoothing setting of a critic", str(key), SMOOTHING)
        self.heads, self.aggregate, self.gamma, self.tau = heads, target, gamma, tau
        self.regression = make_regression("q", OPTIONS, loss, regression)
        self.smoothing = dict(smoothing or {})
        self.target_policy, self.bootstrap, self.half, self.coef = target_policy, bootstrap, half, coef
        self.layer_norm, self.dropout = layer_norm, dropout

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("q_data", "reward", "terminated", BOOTSTRAPS[self.bootstrap], *self.regression.reads)

    @property
    def spec(self) -> QSpec:
        """An ensemble of critics with target copies."""
        return QSpec(
            heads=self.heads,
            tau=self.tau,
            layer_norm=self.layer_norm,
            dropout=self.dropout,
            smoothing_std=self.smoothing.get("std", QSpec.smoothing_std),
            smoothing_clip=self.smoothing.get("clip", QSpec.smoothing_clip),
            target_policy=self.target_policy,
            join=self.aggregate,
        )

    def requirements(self) -> Requirements:
        """The critics, and a state value if it bootstraps from one."""
        state = {"q": None, "value": ValueSpec(), "target_value": ValueSpec(tau=self.tau)}
        return Requirements(value=state[self.bootstrap], q=self.spec)

    def target(self, batch: Batch) -> Tensor:
        """The regression target y, [N, T], detached."""
        rest = torch.where(batch.terminated, 0, self._next(batch))
        target: Tensor = batch.reward + self.gamma * rest
        return target.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The regression's loss summed over heads, [N, T], not reduced."""
        loss = self.regression(batch.q_data, self.target(batch), batch)
        summed = loss if loss.dim() == 2 else loss.sum(0)
        return 0.5 * summed if self.half else summed

    def _next(self, batch: Batch) -> Tensor:
        """The value of the state that the decision led to, [N, T]."""
        following: Tensor = getattr(batch, BOOTSTRAPS[self.bootstrap])
        return over_heads(following, self.aggregate) if self.bootstrap == "q" else following


@register("critic", "soft_q")
class SoftQ(Q):
    r"""Soft temporal-difference regression: the next state's value includes the policy's entropy there.

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \big[\min_k \bar Q_k(s', a') - \alpha \log\pi(a'|s')\big], \qquad
        \ell = \tfrac12 \sum_k (Q_k(s, a) - y)^2

    alpha is `temperature`, the current coefficient of the method's entropy regularizer. `half=False` drops the factor
    1/2. The other hyper-parameters are those of critic `q`; it bootstraps from critics only (for a separate soft
    state value use `q` with bootstrap: value and `v` with target: soft_q).

    Reads `q_data`, `next_q` [heads, N, T], `next_logp`, `reward`, `terminated` [N, T] and `temperature`. Source: Soft
    actor-critic algorithms and applications [189].
    """

    def __init__(
        self,
        *,
        heads: int = 2,
        loss: str = "mse",
        target: Aggregate = "min",
        gamma: float = 0.99,
        tau: float = 0.005,
        layer_norm: bool = False,
        dropout: float = 0.0,
        half: bool = True,
        coef: float = 1.0,
        **regression: Any,
    ) -> None:
        networks: dict[str, Any] = {"heads": heads, "tau": tau, "layer_norm": layer_norm, "dropout": dropout}
        super().__init__(loss=loss, target=target, gamma=gamma, half=half, coef=coef, **networks, **regression)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("q_data", "reward", "terminated", "next_q", "next_logp", "temperature")

    def _next(self, batch: Batch) -> Tensor:
        value: Tensor = over_heads(batch.next_q, self.aggregate) - batch.temperature * batch.next_logp
        return value

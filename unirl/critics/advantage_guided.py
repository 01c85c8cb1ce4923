"""What advantage-guided regularisation trains beside critics: a state value and a model of good behaviour (A2PR)."""

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import check_aggregate, over_heads
from unirl.domain import Requirements, ValueSpec
from unirl.errors import UserError
from unirl.registry import register


@register("critic", "td_value")
class TDValue:
    r"""Regression of a state value on the smaller of two temporal-difference targets of the action-value critics.

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \min\big(\mathrm{agg}_k \bar Q_k(s', a'),
        \mathrm{agg}_k Q_k(s', a')\big), \qquad \ell = (V(s) - y)^2

    a' is the target policy's action, with its noise where the critics smooth it, the same in both. V(s) therefore is a
    value of the recorded actions under the data's own mixture. `target` joins the heads ("min").

    Reads `value_pred`, `next_q` and `next_online_q` [heads, N, T], `reward`, `terminated`; gives [N, T]. Source: A2PR
    (Liu et al. 2024) [31].
    """

    loss_name = "value"
    reads = ("value_pred", "next_q", "next_online_q", "reward", "terminated")

    def __init__(self, *, gamma: float = 0.99, target: str = "min", coef: float = 1.0) -> None:
        check_aggregate(target, "target of critic 'td_value'")
        self.gamma, self.aggregate, self.coef = gamma, target, coef

    def requirements(self) -> Requirements:
        """A state value; the critics are asked for by a `q` critic."""
        return Requirements(value=ValueSpec())

    def target(self, batch: Batch) -> Tensor:
        """The regression target y, [N, T], detached."""
        following = torch.minimum(
            over_heads(batch.next_q, self.aggregate), over_heads(batch.next_online_q, self.aggregate)
        )
        target: Tensor = batch.reward + self.gamma * torch.where(batch.terminated, 0, following)
        return target.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The squared error, [N, T], not reduced."""
        error: Tensor = batch.value_pred - self.target(batch)
        return error.square()


@register("critic", "behavior_vae")
class AdvantageousBehavior:
    r"""Trains the domain's model `behavior_vae` on recorded actions that are better than the state's value.

    .. math:: \ell = w\, 1[Q_1(s, a) > V(s)]\, \|\hat a - a\|^2 / \dim A + c\, KL

    `weight`: w, 1 (1.5 on walker2d-medium). `kl`: c, 1/2. `hidden`: units of the model's layers, 750. `all_actions`:
    train on every action, a plain model of the behaviour (BCQ).

    Reads `model.vae_error`, `model.vae_kl` [N, T] and, unless `all_actions`, `q_data` and `value_pred`; gives [N, T].
    Source: A2PR (Liu et al. 2024) [31].
    """

    loss_name = "behavior_vae"

    def __init__(
        self, *, weight: float = 1.0, kl: float = 0.5, hidden: int = 750, all_actions: bool = False, coef: float = 1.0
    ) -> None:
        if weight < 0 or kl < 0:
            raise UserError(f"critic 'behavior_vae': weight is {weight}, kl {kl}; neither may be negative")
        self.weight, self.kl, self.hidden, self.all_actions, self.coef = weight, kl, hidden, all_actions, coef

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        judged = () if self.all_actions else ("q_data", "value_pred")
        return ("model.vae_error", "model.vae_kl", *judged)

    def requirements(self) -> Requirements:
        """The model."""
        return Requirements(models={"behavior_vae": {"hidden": self.hidden}})

    def loss(self, batch: Batch) -> Tensor:
        """Weighted reconstruction and divergence, [N, T], not reduced."""
        error: Tensor = batch.model["vae_error"]
        if not self.all_actions:
            error = torch.where(over_heads(batch.q_data, "first") > batch.value_pred, error, 0)
        loss: Tensor = self.weight * error + self.kl * batch.model["vae_kl"]
        return loss

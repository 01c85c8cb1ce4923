"""A model of how the recorded policy acts: a conditional variational auto-encoder (BCQ, A2PR [31])."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from unirl.control.critics import estimate
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.networks import MLP
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.domain import ControlDomain
    from unirl.control.score import Scorer

LOG_STD_RANGE = (-4.0, 15.0)


class Decoded(NamedTuple):
    """Actions [..., A] after encoding and decoding, and the encoder's Gaussian [..., 2 A]."""

    action: Tensor
    mean: Tensor
    log_std: Tensor


@register("model", "behavior_vae")
class BehaviorVAE(AuxiliaryModel):
    r"""Encodes an action of a state into a Gaussian and decodes a draw of it into an action.

    .. math:: z \sim N(m(s, a), \sigma(s, a)^2), \quad \hat a = \tanh f(s, z), \qquad
        KL = -\tfrac12\, \mathrm{mean}_j (1 + \log\sigma_j^2 - m_j^2 - \sigma_j^2)

    `hidden`: units of both hidden layers, 750; the code has 2 dim(A) dimensions, log sigma lies in [-4, 15].

    For its training `model.vae_error` (mean square of a_hat - a) and `model.vae_kl`, [N, T], of the recorded action. Of
    the policy's own action: `model.vae_action` [N, T, A], encoded and decoded, differentiable in the policy alone,
    and `model.vae_action_q` [N, T, heads], the critics' value of it, a constant. Raises `UserError` where actions are
    choices. Sources: BCQ (Fujimoto et al. 2019), A2PR (Liu et al. 2024).
    """

    fields: ClassVar[Mapping[str, str]] = {
        "vae_error": "error",
        "vae_kl": "kl",
        "vae_action": "own_action",
        "vae_action_q": "own_action_q",
    }

    def __init__(self, *, hidden: int = 750) -> None:
        super().__init__()
        if hidden < 1:
            raise UserError(f"model 'behavior_vae': hidden is {hidden}; give at least 1")
        self.hidden = hidden

    def build(self, domain: "ControlDomain") -> None:
        """Make encoder and decoder."""
        if domain.actions.discrete:
            raise UserError("model 'behavior_vae' encodes continuous actions; this environment has choices (Discrete)")
        state, action, layers = domain.observation_size, domain.actions.size, [self.hidden, self.hidden]
        self.encoder = MLP([state + action, *layers, 4 * action], half=domain.half_precision)
        self.decoder = MLP([state + 2 * action, *layers, action], half=domain.half_precision)

    def decoded(
        self, observation: Tensor, action: Tensor, generator: torch.Generator | None = None, frozen: bool = False
    ) -> Decoded:
        """Encode, draw, decode; with `frozen` the gradient reaches the action but not the weights."""
        mean, log_std = self.encoder(torch.cat([observation, action], -1), frozen).chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        code = mean + log_std.exp() * noise
        return Decoded(torch.tanh(self.decoder(torch.cat([observation, code], -1), frozen)), mean, log_std)

    def error(self, scorer: "Scorer") -> Tensor:
        """Mean square over dimensions of the reconstruction's error, [N, T]."""
        return (self._recorded(scorer).action - scorer.action).square().mean(-1)

    def kl(self, scorer: "Scorer") -> Tensor:
        """Divergence of the code from N(0, 1), mean over its dimensions, [N, T]."""
        _, mean, log_std = self._recorded(scorer)
        return -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).mean(-1)

    def own_action(self, scorer: "Scorer") -> Tensor:
        """The policy's action, encoded and decoded, [N, T, A]."""
        return self._own(scorer).action

    def own_action_q(self, scorer: "Scorer") -> Tensor:
        """The critics' value of that action, [N, T, heads]."""
        if scorer.domain.q is None:
            raise UserError("model 'behavior_vae' needs an action-value critic, such as {name: q}")
        inputs = scorer.critic_input(scorer.observation, self.own_action(scorer))
        with torch.no_grad():
            return estimate(scorer.domain.q, inputs).mean.movedim(0, -1)

    def _recorded(self, scorer: "Scorer") -> Decoded:
        decode = partial(self.decoded, scorer.observation, scorer.action, scorer.domain.generator)
        return scorer.once("behavior_vae of the recorded action", decode)

    def _own(self, scorer: "Scorer") -> Decoded:
        decode = partial(self.decoded, scorer.observation, scorer.policy.mode(), scorer.domain.generator, frozen=True)
        return scorer.once("behavior_vae of the policy's action", decode)

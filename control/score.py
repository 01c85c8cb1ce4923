"""What `Domain.score` adds to a batch, each quantity computed at most once."""

from collections.abc import Callable, Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from unirl.batch import Batch
from unirl.control.critics import Estimate, estimate
from unirl.control.distributions import Categorical, Distribution, Gaussian, Sample, TanhGaussian
from unirl.control.history import HistoryPolicy
from unirl.control.mixture import TanhGaussianMixture
from unirl.control.policies import distribution
from unirl.critics.heads import over_heads
from unirl.domain import DETACHED
from unirl.errors import UserError

if TYPE_CHECKING:
    from unirl.control.domain import ControlDomain

T = TypeVar("T")
_Q = "action-value critic (q)"
_VALUE = "state-value critic (value)"
_TARGET_VALUE = "target copy of the state-value critic (ValueSpec.tau)"
_SPREAD = "critic with a spread (std)"
_CHOICES = "number of likeliest choices (top_choices)"


def score(domain: "ControlDomain", batch: Batch, need: Collection[str]) -> Batch:
    """The batch with every field that `need` names; those of `unirl.domain.DETACHED` without gradients.

    Dropout is on here and nowhere else: not while acting or evaluating. A nested field without a dot (`anchor_logp`)
    stands for all anchors. Raises `ValueError` for a name that no domain computes and for a critic or an anchor that
    `build` was not asked for.
    """
    for layers in domain.dropping:
        layers.train()
    try:
        return batch.replace(**_fields(domain, batch, need))
    finally:
        for layers in domain.dropping:
            layers.eval()


def _fields(domain: "ControlDomain", batch: Batch, need: Collection[str]) -> dict[str, Any]:
    differentiable, detached = Scorer(domain, batch), Scorer(domain, batch)
    fields: dict[str, Any] = {}
    if "top_token" in need:  # what other fields are of
        differentiable.choices = detached.choices = detached.likeliest()
    for name in sorted(need):
        head, _, tail = name.partition(".")
        frozen = head in DETACHED
        scorer = detached if frozen else differentiable
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            if head in _PER_ANCHOR:
                anchors = [tail] if tail else sorted([*domain.anchors, *domain.teachers])
                fields.setdefault(head, {}).update({anchor: _PER_ANCHOR[head](scorer, anchor) for anchor in anchors})
            elif head in ("estimate", "model"):
                fields.setdefault(head, {})[tail] = _of_model(domain, tail)(scorer)
            elif name in _FIELDS:
                fields[name] = _FIELDS[name](scorer)
            else:
                raise ValueError(f"the control domain cannot score '{name}'")
    return fields


class Scorer:
    """Lazily computed quantities of one batch; what several fields share is computed once."""

    def __init__(self, domain: "ControlDomain", batch: Batch) -> None:
        self.domain = domain
        self.batch = batch
        self.inputs = batch.inputs
        self._shared: dict[str, Any] = {}

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """What several quantities of an auxiliary model share, computed by the first that asks."""
        if name not in self._shared:
            self._shared[name] = compute()
        return cast(T, self._shared[name])

    # Inputs and policy

    @cached_property
    def observation(self) -> Tensor:
        return cast(Tensor, self.inputs["observation"])

    @cached_property
    def next_observation(self) -> Tensor:
        return cast(Tensor, self.inputs["next_observation"])

    @cached_property
    def action(self) -> Tensor:
        return cast(Tensor, self.inputs["action"])

    @cached_property
    def policy(self) -> Distribution:
        return self._here(self.domain.policy)

    def _here(self, policy: nn.Module) -> Distribution:
        """A policy's distribution at the observations; one that looks back is shown the row's decisions."""
        if isinstance(policy, HistoryPolicy):
            made: Distribution = policy(self.observation, self.action, self.inputs.get("time"))
            return made
        return distribution(policy, self.observation)

    @cached_property
    def fresh(self) -> Sample:
        """A re-parameterised action at every observation and its log-density; of a mixture, one of its experts'."""
        if isinstance(self.policy, TanhGaussianMixture):
            return self.mixture.pick(self.experts[0], self.domain.generator)
        return self.policy.rsample(self.domain.generator)

    @cached_property
    def choices(self) -> Tensor:
        """The choices [N, T, k] whose log-probabilities are asked for."""
        return cast(Tensor, self.batch.top_token)

    @torch.no_grad()
    def likeliest(self) -> Tensor:
        """The policy's likeliest choices, as many as the method's parts look at."""
        number = _built(self.domain.requirements.top_choices or None, _CHOICES)
        log_probs = cast(Categorical, self.policy).log_probs
        return log_probs.topk(min(number, log_probs.shape[-1])).indices

    @cached_property
    def mixture(self) -> TanhGaussianMixture:
        if not isinstance(self.policy, TanhGaussianMixture):
            raise UserError("the method needs a policy of several experts: `policy: {name: gaussian_mixture}`")
        return self.policy

    @cached_property
    def experts(self) -> tuple[Sample, Tensor]:
        """An action of each expert of a mixture, and its density under the expert alone."""
        return self.mixture.experts(self.domain.generator)

    @cached_property
    def next_policy(self) -> Distribution:
        acting = self.domain.target_policy
        if isinstance(self.domain.policy, HistoryPolicy):
            raise UserError("a policy that looks back has no action at the next state: no critic can ask for it")
        return distribution(self.domain.policy if acting is None else acting, self.next_observation)

    @cached_property
    def next_fresh(self) -> Sample:
        """The action at the next state: re-parameterised, then smoothed as the critic's specification says.

        An auxiliary model may put another in its place.
        """
        for model in self.domain.models.values():
            chosen = model.next_action(self)
            if chosen is not None:
                return Sample(chosen, self.next_policy.log_prob(chosen))
        fresh = self.next_policy.rsample(self.domain.generator)
        spec = _built(self.domain.requirements.q, _Q)
        if spec.smoothing_std == 0:
            return fresh
        noise = torch.randn(fresh.action.shape, generator=self.domain.generator, device=fresh.action.device)
        noise = (noise * spec.smoothing_std).clamp(-spec.smoothing_clip, spec.smoothing_clip)
        return fresh._replace(action=(fresh.action + noise).clamp(-1.0, 1.0))

    def anchor(self, name: str) -> Distribution:
        """A frozen policy's distribution at the observations."""
        with torch.no_grad():
            return self._here(self.domain.anchor(name))

    # Fields of the policy

    def logp(self) -> Tensor:
        return self.policy.log_prob(self.action, self.inputs.get("raw_action", None))

    def entropy(self) -> Tensor:
        closed = self.policy.entropy()
        return -self.sample_logp() if closed is None else closed

    def sample_logp(self) -> Tensor:
        if isinstance(self.policy, Categorical):  # the exact expectation over choices
            return -self.policy.entropy()
        return self.fresh.logp

    def top_token(self) -> Tensor:
        return self.choices

    def top_logp(self) -> Tensor:
        return cast(Categorical, self.policy).log_probs.gather(-1, self.choices)

    def anchor_top_logp(self, name: str) -> Tensor:
        return cast(Categorical, self.anchor(name)).log_probs.gather(-1, self.choices)

    def policy_action(self) -> Tensor:
        return self.policy.mode()

    def anchor_logp(self, name: str) -> Tensor:
        return self.anchor(name).log_prob(self.action, self.inputs.get("raw_action", None))

    def sample_anchor_logp(self, name: str) -> Tensor:
        anchor = self.anchor(name)
        if isinstance(self.policy, Categorical) and isinstance(anchor, Categorical):
            return (self.policy.probs * anchor.log_probs).sum(-1)
        return anchor.log_prob(self.fresh.action, self.fresh.raw)

    def sample_logp_parts(self) -> Tensor:
        return _by_dimension(self.policy).log_prob_parts(self.fresh.action, self.fresh.raw)

    def sample_anchor_logp_parts(self, name: str) -> Tensor:
        return _by_dimension(self.anchor(name)).log_prob_parts(self.fresh.action, self.fresh.raw)

    def anchor_kl(self, name: str) -> Tensor:
        return self.policy.kl(self.anchor(name))

    def kl_from_anchor(self, name: str) -> Tensor:
        return self.anchor(name).kl(self.policy)

    # Fields of a policy of several experts

    def router(self) -> Tensor:
        return self.mixture.weights

    def expert_logp(self) -> Tensor:
        return self.experts[0].logp

    def expert_own_logp(self) -> Tensor:
        return self.experts[1]

    def expert_q(self) -> Tensor:
        action = self.experts[0].action
        observation = self.observation.unsqueeze(-2).expand(*action.shape[:-1], -1)
        critic = _built(self.domain.q, _Q)
        return estimate(critic, self.critic_input(observation, action), frozen=True).mean.movedim(0, -1)

    # Fields of the critics

    @cached_property
    def _value(self) -> Estimate:
        return estimate(_built(self.domain.value, _VALUE), self.observation)

    def value_pred(self) -> Tensor:
        return self._value.mean

    def value_pred_std(self) -> Tensor:
        return _built(self._value.std, _SPREAD)

    def next_value(self) -> Tensor:
        return self._of_next_state(self.domain.value)

    def target_value(self) -> Tensor:
        return cast(Tensor, _built(self.domain.target_value, _TARGET_VALUE)(self.observation))

    def next_target_value(self) -> Tensor:
        return self._of_next_state(_built(self.domain.target_value, _TARGET_VALUE))

    def _of_next_state(self, critic: nn.Module | None) -> Tensor:
        value: Tensor = _built(critic, _VALUE)(self.next_observation)
        return value.masked_fill(self.batch.terminated, 0.0)

    @cached_property
    def _own(self) -> Estimate:
        """The critic's estimate of the policy's own action; the gradient reaches the action alone."""
        critic = _built(self.domain.q, _Q)
        if isinstance(self.policy, Categorical):
            return Estimate(self._expected(critic(self.observation, frozen=True), self.policy))
        return estimate(critic, self.critic_input(self.observation, self.fresh.action), frozen=True)

    @cached_property
    def _recorded(self) -> Estimate:
        return self._of_recorded_action(_built(self.domain.q, _Q))

    @cached_property
    def _next(self) -> Estimate:
        """The target critic's estimate of the policy's action at the next state."""
        critic = _built(self.domain.target_q, _Q)
        if isinstance(self.next_policy, Categorical):
            return Estimate(self._expected(critic(self.next_observation), self.next_policy))
        return estimate(critic, self.critic_input(self.next_observation, self.next_fresh.action))

    def q(self) -> Tensor:
        return self._own.mean

    def q_first(self) -> Tensor:
        if isinstance(self.policy, Categorical):
            return (self.policy.probs * _built(self.domain.q, _Q).first_head(self.observation)).sum(-1)
        return _built(self.domain.q, _Q).first_head(self.critic_input(self.observation, self.fresh.action))

    def q_std(self) -> Tensor:
        return _built(self._own.std, _SPREAD)

    def q_data(self) -> Tensor:
        return self._recorded.mean

    def q_data_std(self) -> Tensor:
        return _built(self._recorded.std, _SPREAD)

    def target_q_data(self) -> Tensor:
        return self._of_recorded_action(_built(self.domain.target_q, _Q)).mean

    def next_q(self) -> Tensor:
        return self._next.mean

    def next_q_std(self) -> Tensor:
        return _built(self._next.std, _SPREAD)

    def next_online_q(self) -> Tensor:
        critic = _built(self.domain.q, _Q)
        if isinstance(self.next_policy, Categorical):
            return self._expected(critic(self.next_observation), self.next_policy)
        return estimate(critic, self.critic_input(self.next_observation, self.next_fresh.action)).mean

    def next_policy_action(self) -> Tensor:
        return self.next_fresh.action

    def next_logp(self) -> Tensor:
        if isinstance(self.next_policy, Categorical):
            return -self.next_policy.entropy()
        return self.next_fresh.logp

    def _expected(self, values: Tensor, policy: Categorical) -> Tensor:
        """Expectation over choices of [heads, ..., A] values: [...] where heads are joined before, or [heads, ...]."""
        join = _built(self.domain.requirements.q, _Q).join
        return (policy.probs * (values if join is None else over_heads(values, join))).sum(-1)

    def _of_recorded_action(self, critic: nn.Module) -> Estimate:
        if self.domain.actions.discrete:
            values: Tensor = critic(self.observation)
            choice = self.action.expand(values.shape[0], *self.action.shape).unsqueeze(-1)
            return Estimate(values.gather(-1, choice).squeeze(-1))
        return estimate(critic, self.critic_input(self.observation, self.action))

    def critic_input(self, observation: Tensor, action: Tensor) -> Tensor:
        """Observation and action as the environment receives it: [..., O + A]."""
        if self.domain.clips_actions:
            action = action.clamp(-1.0, 1.0)
        return torch.cat([observation, action], -1)


_PER_ANCHOR: dict[str, Callable[[Scorer, str], Tensor]] = {
    "anchor_logp": Scorer.anchor_logp,
    "anchor_top_logp": Scorer.anchor_top_logp,
    "sample_anchor_logp": Scorer.sample_anchor_logp,
    "sample_anchor_logp_parts": Scorer.sample_anchor_logp_parts,
    "anchor_kl": Scorer.anchor_kl,
    "kl_from_anchor": Scorer.kl_from_anchor,
}
_FIELDS: dict[str, Callable[[Scorer], Tensor]] = {
    "logp": Scorer.logp,
    "old_logp": Scorer.logp,
    "top_token": Scorer.top_token,
    "top_logp": Scorer.top_logp,
    "entropy": Scorer.entropy,
    "sample_logp": Scorer.sample_logp,
    "sample_logp_parts": Scorer.sample_logp_parts,
    "router": Scorer.router,
    "expert_q": Scorer.expert_q,
    "expert_logp": Scorer.expert_logp,
    "expert_own_logp": Scorer.expert_own_logp,
    "policy_action": Scorer.policy_action,
    "value": Scorer.value_pred,
    "value_pred": Scorer.value_pred,
    "value_pred_std": Scorer.value_pred_std,
    "next_value": Scorer.next_value,
    "next_value_pred": Scorer.next_value,
    "target_value": Scorer.target_value,
    "next_target_value": Scorer.next_target_value,
    "q": Scorer.q,
    "q_first": Scorer.q_first,
    "q_std": Scorer.q_std,
    "q_data": Scorer.q_data,
    "q_data_std": Scorer.q_data_std,
    "target_q_data": Scorer.target_q_data,
    "next_q": Scorer.next_q,
    "next_target_q_pred": Scorer.next_q,
    "next_q_std": Scorer.next_q_std,
    "next_logp": Scorer.next_logp,
    "next_online_q": Scorer.next_online_q,
    "next_policy_action": Scorer.next_policy_action,
}


def _of_model(domain: "ControlDomain", quantity: str) -> Callable[[Scorer], Tensor]:
    """The auxiliary model's method that computes a quantity."""
    for model in domain.models.values():
        if quantity in model.fields:
            return model.quantity(quantity)
    raise ValueError(f"no auxiliary model of {sorted(domain.models)} computes '{quantity}'")


def _by_dimension(policy: Distribution) -> Gaussian | TanhGaussian:
    if not isinstance(policy, Gaussian | TanhGaussian):
        raise UserError(f"a density of each action dimension needs a Gaussian policy, not {type(policy).__name__}")
    return policy


def _built(part: T | None, what: str) -> T:
    if part is None:
        raise ValueError(f"the method did not require the {what}: pass it in Requirements to `build`")
    return part

"""What `score` adds, field by field."""

import pytest
import torch
from control_worlds import CLOCK, SMALL
from torch.testing import assert_close

from unirl import make
from unirl.config import compose
from unirl.control import ControlDomain
from unirl.domain import DETACHED, DIFFERENTIABLE, QSpec, Requirements, ValueSpec
from unirl.errors import UserError
from unirl.run import build

ANCHORS = frozenset({"ref", "prev"})
ON_REQUEST = {name for name in DETACHED | DIFFERENTIABLE if name.endswith("_std") or "target_value" in name}
ON_REQUEST |= {"estimate", "model"}  # of critics with a spread or a target copy, and of auxiliary models
ON_REQUEST |= {"router", "expert_q", "expert_logp", "expert_own_logp"}  # of a mixture, see test_069_pmoe.py
ON_REQUEST |= {"sample_logp_parts", "sample_anchor_logp_parts"}  # of Gaussians, see below
ON_REQUEST |= {"top_token", "top_logp", "anchor_top_logp"}  # of choices, see below


def domain_of(requirements: Requirements, env: str = "unirl-test/Clock-v0", policy: str = "auto") -> ControlDomain:
    domain = ControlDomain(
        {"env": env}, {**SMALL, "policy": policy}, normalize_observation=False, normalize_reward=False
    )
    domain.build(requirements)
    return domain


def both_critics(env: str = "unirl-test/Clock-v0", policy: str = "auto") -> ControlDomain:
    return domain_of(Requirements(value=ValueSpec(), q=QSpec(heads=3), anchors=ANCHORS), env, policy)


def perturb(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_next_value_bootstraps_at_truncations_and_not_at_terminations():
    # life 3 of at most 5: terminations at decisions 2 and 5 in the middle of the row
    domain = domain_of(Requirements(value=ValueSpec()))
    batch = domain.score(domain.rollout(7, unit="segment"), {"value", "next_value"})
    expected = domain.value(batch.inputs["next_observation"]).detach()
    expected[0, [2, 5]] = 0.0
    assert_close(batch.next_value, expected)
    inside = [0, 1, 3, 4]
    assert_close(batch.next_value[0, inside], batch.value[0, [1, 2, 4, 5]])

    long = ControlDomain({**CLOCK, "env_kwargs": {"life": 99}}, SMALL, normalize_observation=False)
    long.build(Requirements(value=ValueSpec()))
    batch = long.score(long.rollout(7, unit="segment"), {"next_value"})
    assert batch.truncated[0, 4]
    assert_close(batch.next_value, long.value(batch.inputs["next_observation"]).detach())
    assert batch.next_value[0, 4] != 0


@pytest.mark.parametrize(
    ("env", "policy"),
    [("Hopper-v5", kind) for kind in ("gaussian", "bounded_gaussian", "tanh_gaussian", "deterministic")]
    + [("CartPole-v1", "categorical")],
)
def test_every_field_has_its_shape_and_its_gradient(env, policy):
    domain = both_critics(env, policy)
    perturb(domain.policy)
    needed = (DETACHED | DIFFERENTIABLE) - ON_REQUEST
    batch = domain.score(domain.rollout(6, unit="segment"), needed)
    for name in needed:
        leaves = dict(getattr(batch, name)) if "anchor" in name else {"": getattr(batch, name)}
        assert "anchor" not in name or set(leaves) == ANCHORS
        for leaf in leaves.values():
            heads = (
                (3,)
                if name in ("q", "q_data", "next_q", "next_online_q", "next_target_q_pred", "target_q_data")
                else ()
            )
            tail = (3,) if name in ("policy_action", "next_policy_action") and policy != "categorical" else ()
            assert leaf.shape == (*heads, 1, 6, *tail), name
            constant = {"deterministic": {"entropy", "sample_logp"}, "categorical": {"policy_action"}}.get(
                policy, set()
            )
            assert leaf.requires_grad == (name in DIFFERENTIABLE - constant), name


def test_logp_is_exact_for_saturated_actions_because_raw_values_are_kept():
    domain = domain_of(Requirements(q=QSpec()), "Hopper-v5")
    with torch.no_grad():
        domain.policy.network.biases[-1][:3] = 12.0  # tanh(12) is 1 in float32
    batch = domain.score(domain.rollout(4, unit="segment"), {"old_logp"})
    assert (batch.inputs["action"] == 1).any()
    assert_close(batch.old_logp, batch.behavior_logp)


def test_entropy_without_closed_form_belongs_to_the_action_that_q_judges():
    domain = domain_of(Requirements(q=QSpec()))
    batch = domain.score(domain.rollout(8, unit="segment"), {"entropy", "sample_logp", "q"})
    assert torch.equal(batch.entropy, -batch.sample_logp)
    batch.q.sum().backward()
    assert all(parameter.grad is None for parameter in domain.q.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in domain.policy.parameters())


def test_q_data_trains_the_critic_and_not_the_target():
    domain = domain_of(Requirements(q=QSpec()))
    perturb(domain.q)
    batch = domain.score(domain.rollout(8, unit="segment"), {"q_data", "target_q_data"})
    assert not torch.equal(batch.q_data, batch.target_q_data)
    batch.q_data.sum().backward()
    assert all(parameter.grad is not None for parameter in domain.q.parameters())
    assert not any(parameter.requires_grad for parameter in domain.target_q.parameters())


def test_next_q_of_a_deterministic_policy_is_the_target_critic_of_its_action():
    domain = domain_of(Requirements(q=QSpec(), policy="deterministic"))
    perturb(domain.target_q)
    batch = domain.score(domain.rollout(4, unit="segment"), {"next_q"})
    following = batch.inputs["next_observation"]
    action = domain.policy(following).mean
    assert_close(batch.next_q, domain.target_q(torch.cat([following, action], -1)).detach())


def test_target_action_smoothing_is_clipped_twice():
    # noise of deviation 100 clipped to 0.25 around an action of 0.9: 0.65 or, beyond the bound, 1
    spec = QSpec(smoothing_std=100.0, smoothing_clip=0.25, target_policy=True)
    domain = domain_of(Requirements(q=spec, policy="deterministic"))
    with torch.no_grad():
        for policy, action in ((domain.policy, 0.0), (domain.target_policy, 0.9)):
            policy.network.weights[-1].zero_()
            policy.network.biases[-1].fill_(torch.atanh(torch.tensor(action)))
    seen = []
    domain.target_q.register_forward_pre_hook(lambda module, args: seen.append(args[0][..., -1]))
    domain.score(domain.rollout(100, unit="segment"), {"next_q"})
    action = seen[0].ravel()
    near = [value.item() for value in action if abs(value - 0.65) > 1e-5 and abs(value - 1.0) > 1e-5]
    assert len(near) < 5  # a draw within the clip is rare at this deviation
    assert {round(value.item(), 4) for value in action} >= {0.65, 1.0}


def test_critics_see_unbounded_actions_as_the_environment_receives_them():
    domain = domain_of(Requirements(q=QSpec(), policy="gaussian"))
    batch = domain.rollout(3, unit="segment")
    outside = batch.replace(inputs={"action": torch.full((1, 3, 1), 7.0)})
    at_bound = batch.replace(inputs={"action": torch.ones(1, 3, 1)})
    assert torch.equal(domain.score(outside, {"q_data"}).q_data, domain.score(at_bound, {"q_data"}).q_data)
    assert not torch.equal(domain.score(outside, {"logp"}).logp, domain.score(at_bound, {"logp"}).logp)


def test_anchors_are_asked_for_by_name_and_do_not_follow_the_policy():
    domain = domain_of(Requirements(anchors=ANCHORS))
    batch = domain.rollout(5, unit="segment")
    before = domain.score(batch, {"old_logp", "anchor_logp.ref"})
    assert_close(before.anchor_logp["ref"], before.old_logp)
    assert "anchor_logp.prev" not in before
    perturb(domain.policy)
    domain.copy_policy("prev")
    after = domain.score(batch, {"old_logp", "anchor_logp", "anchor_kl.ref", "anchor_kl.prev"})
    assert_close(after.anchor_logp["ref"], before.anchor_logp["ref"])
    assert_close(after.anchor_logp["prev"], after.old_logp)
    assert (after.anchor_kl["ref"] > 0.001).all()
    assert_close(after.anchor_kl["prev"], torch.zeros(1, 5), atol=1e-6, rtol=0)


def test_the_anchors_judge_the_same_fresh_action_as_the_policy():
    domain = domain_of(Requirements(q=QSpec(), anchors=ANCHORS))
    batch = domain.score(domain.rollout(5, unit="segment"), {"sample_logp", "sample_anchor_logp.prev"})
    assert_close(batch.sample_anchor_logp["prev"], batch.sample_logp)


def test_choices_are_judged_in_expectation():
    domain = both_critics("CartPole-v1")
    perturb(domain.policy)
    batch = domain.rollout(5, unit="segment")
    batch = domain.score(
        batch, {"q", "q_data", "next_q", "next_logp", "sample_logp", "sample_anchor_logp.ref", "anchor_kl.ref"}
    )
    observation, following = batch.inputs["observation"], batch.inputs["next_observation"]
    policy, values = domain.policy(observation), domain.q(observation)
    assert_close(batch.q, (values * policy.probs).sum(-1))
    action = batch.inputs["action"]
    assert_close(batch.q_data, torch.where(action == 1, values[..., 1], values[..., 0]))
    assert_close(batch.next_q, (domain.target_q(following) * domain.policy(following).probs).sum(-1).detach())
    assert_close(batch.next_logp, -domain.policy(following).entropy().detach())
    assert_close(batch.sample_logp - batch.sample_anchor_logp["ref"], batch.anchor_kl["ref"])


@pytest.mark.parametrize(("join", "each"), [("min", 0.0), ("mean", 0.5), ({"lower": 0.5}, 0.5 - 0.5 * 0.5)])
def test_critics_of_choices_are_joined_before_the_expectation(join, each):
    domain = domain_of(Requirements(q=QSpec(join=join)), "CartPole-v1")
    with torch.no_grad():  # critics that disagree on which of two choices is worth 1, the other being worth 0
        for network in (domain.q, domain.target_q):
            network.weights[-1].zero_()
            network.biases[-1].copy_(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]))
    batch = domain.score(domain.rollout(5, unit="segment"), {"q", "next_q", "next_online_q", "q_first"})
    for name in ("q", "next_q", "next_online_q"):
        assert_close(getattr(batch, name), torch.full((1, 5), each))
    assert_close(batch.q_first, domain.policy(batch.inputs["observation"]).probs[..., 1])


@pytest.mark.parametrize(
    ("need", "message"),
    [
        ({"q"}, r"did not require the action-value critic \(q\)"),
        ({"value"}, "state-value critic"),
        ({"anchor_logp.ref"}, "anchor 'ref' was not built"),
        ({"advantage"}, "cannot score 'advantage'"),
    ],
)
def test_fields_that_were_not_required_are_refused(need, message):
    domain = domain_of(Requirements())
    with pytest.raises(ValueError, match=message):
        domain.score(domain.rollout(2, unit="segment"), need)


@pytest.mark.parametrize("policy", ["gaussian", "tanh_gaussian"])
def test_densities_of_action_dimensions_add_up_to_that_of_the_action(policy):
    domain = both_critics("Hopper-v5", policy)
    perturb(domain.policy)
    need = {"sample_logp", "sample_anchor_logp.ref", "sample_logp_parts", "sample_anchor_logp_parts.ref"}
    batch = domain.score(domain.rollout(6, unit="segment"), need)
    assert batch.sample_logp_parts.shape == (1, 6, 3)
    assert_close(batch.sample_logp_parts.sum(-1), batch.sample_logp, atol=1e-4, rtol=1e-4)
    assert_close(batch.sample_anchor_logp_parts["ref"].sum(-1), batch.sample_anchor_logp["ref"], atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="each action dimension needs a Gaussian policy"):
        both_critics("Hopper-v5", "deterministic").score(batch, {"sample_logp_parts"})


def test_a_mixture_scores_every_expert():
    domain = domain_of(Requirements(q=QSpec(heads=2), policy="gaussian_mixture", policy_options={"experts": 4}))
    batch = domain.score(domain.rollout(6, unit="segment"), {"router", "expert_q", "expert_logp", "next_q", "logp"})
    assert batch.expert_q.shape == (1, 6, 4, 2)
    assert batch.router.shape == batch.expert_logp.shape == (1, 6, 4)
    assert_close(batch.router.sum(-1), torch.ones(1, 6))
    assert_close(batch.logp, batch.behavior_logp)
    batch.expert_q.sum().backward()
    assert all(parameter.grad is None for parameter in domain.q.parameters())
    assert domain.policy.network.weights[-1].grad.abs().sum() > 0


def test_a_mixture_starts_with_the_spread_that_it_is_told():
    options = {"experts": 2, "log_std_start": -1.5}
    usual, told = (
        domain_of(Requirements(q=QSpec(), policy="gaussian_mixture", policy_options=chosen)).policy(torch.zeros(2))
        for chosen in ({"experts": 2}, options)
    )
    assert_close(told.log_std, usual.log_std - 1.5)
    assert_close(told.mean, usual.mean)
    assert_close(told.logits, usual.logits)


def test_the_likeliest_choices_are_those_of_the_policy_and_at_most_all():
    domain = domain_of(Requirements(anchors=ANCHORS, top_choices=1), "CartPole-v1")
    perturb(domain.policy)
    batch = domain.score(domain.rollout(6, unit="segment"), {"top_token", "anchor_top_logp.ref"})
    here = domain.policy(batch.inputs["observation"]).log_probs
    then = domain.anchor("ref")(batch.inputs["observation"]).log_probs
    assert torch.equal(batch.top_token, here.argmax(-1, keepdim=True))
    assert_close(batch.anchor_top_logp["ref"], then.gather(-1, batch.top_token).detach())
    perturb(domain.policy)  # what is asked about stays the same
    scored = domain.score(batch, {"top_logp"})
    here = domain.policy(batch.inputs["observation"]).log_probs
    assert torch.equal(scored.top_token, batch.top_token)
    assert_close(scored.top_logp, here.gather(-1, batch.top_token))
    assert scored.top_logp.requires_grad and not batch.anchor_top_logp["ref"].requires_grad

    every = domain_of(Requirements(anchors=ANCHORS, top_choices=16), "CartPole-v1")
    perturb(every.policy)
    batch = every.score(every.rollout(6, unit="segment"), {"top_token", "top_logp", "anchor_top_logp", "anchor_kl.ref"})
    assert batch.top_token.shape == (1, 6, 2) and set(batch.anchor_top_logp) == ANCHORS
    kl = make("regularizer", "kl", estimator="top_k")(batch)
    assert_close(kl, batch.anchor_kl["ref"], atol=1e-6, rtol=1e-5)


def test_likeliest_choices_of_continuous_actions_are_refused():
    with pytest.raises(UserError, match=r"need discrete actions; Hopper-v5's are continuous"):
        domain_of(Requirements(top_choices=4), "Hopper-v5")
    domain = domain_of(Requirements(), "CartPole-v1")
    with pytest.raises(ValueError, match="number of likeliest choices"):
        domain.score(domain.rollout(2, unit="segment"), {"top_token"})


def test_a_kl_over_all_choices_trains_as_the_exact_one(tmp_path):
    ends = []
    for estimator in ("exact", "top_k"):
        small = [
            "task.env=CartPole-v1",
            "method.source.rows=8",
            "iterations=3",
            "evaluations=0",
            "evaluation_episodes=1",
        ]
        term = f"method.regularizers=[{{name: kl, to: ref, estimator: {estimator}, coef: 0.5}}]"
        trainer = build(compose(["method=grpo", "task=gymnasium", *small, term, f"out={tmp_path / estimator}"]), None)
        for _ in range(3):
            trainer.iterate()
        ends.append(list(trainer.domain.policy.parameters()))
    assert_close(*ends, atol=1e-5, rtol=1e-4)

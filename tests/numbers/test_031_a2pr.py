"""Advantage-guided policy regularisation [31]: the catalogue's numbers, gradients, and where it becomes TD3+BC."""

import pytest
import torch
from helpers import rows
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.config import compose
from unirl.control import ControlDomain
from unirl.domain import QSpec, Requirements, ValueSpec
from unirl.errors import UserError
from unirl.run import build

SMALL = {"hidden": [8], "activation": "tanh"}
MODEL = ("model.vae_error", "model.vae_kl", "model.vae_action", "model.vae_action_q")


def two_samples(**changes) -> Batch:
    """The policy's action .2, recorded .5, proposed .1 and .9; Q of recorded 1, of proposed 2 and .5; V 1.5."""
    fields = {
        "policy_action": [[[0.2]], [[0.2]]],
        "reference_action": [[[0.5]], [[0.5]]],
        "q_data": [[[1.0], [1.0]], [[9.0], [9.0]]],  # only the first critic counts
        "value_pred": [[1.5], [1.5]],
        "model": {"vae_action": [[[0.1]], [[0.9]]], "vae_action_q": [[[2.0, -9.0]], [[0.5, 9.0]]]},
    }
    return rows(**(fields | changes))


def penalty(batch: Batch, **options) -> Tensor:
    return make("regularizer", "advantage_guided", **options)(batch)


def test_the_better_action_is_the_target_and_what_is_worse_than_the_value_is_not_cloned():
    # targets .1 and .5; the second sample's advantages are -.5 and -1: (.01 + 0) / 2
    found = penalty(two_samples())
    assert_close(found, tensor([[0.01], [0.0]]).double())
    assert_close(make("reduce", "token_mean")(found, two_samples()).item(), 0.005)


def test_the_gradient_runs_through_the_proposed_action_unless_it_is_detached():
    # d (pi - a~)^2 = 2 (.2 - .1) = .2 in pi and -.2 in a~: a decoder that returns pi itself would cancel it
    batch = two_samples()
    policy, proposed = (leaf.clone().requires_grad_() for leaf in (batch.policy_action, batch.model["vae_action"]))
    batch = batch.replace(policy_action=policy, model={"vae_action": proposed})
    to_policy, to_proposed = torch.autograd.grad(penalty(batch).sum(), [policy, proposed])
    assert_close(to_policy.flatten(), tensor([0.2, 0.0]).double())
    assert_close(to_proposed.flatten(), tensor([-0.2, 0.0]).double())
    detached = torch.autograd.grad(penalty(batch, detach=True).sum(), [policy, proposed], allow_unused=True)
    assert_close(detached[0], to_policy)
    assert detached[1] is None


@given(st.integers(0, 2**31))
def test_where_the_recorded_action_is_the_better_it_is_td3_bc(seed):
    draw = torch.Generator().manual_seed(seed)
    own, recorded, proposed = (torch.rand(6, 1, 3, generator=draw) * 2 - 1 for _ in range(3))
    value = torch.randn(6, 1, generator=draw)
    batch = rows(
        policy_action=own,
        reference_action=recorded,
        value_pred=value,
        q_data=torch.stack([value + 0.5, value - 7]),
        model={"vae_action": proposed, "vae_action_q": (value + 0.4).unsqueeze(-1)},
    )
    assert_close(penalty(batch), make("regularizer", "behavior")(batch))


def test_a_proposal_as_good_as_the_recorded_action_or_the_value_counts_a_recorded_action_must_be_better():
    # equal advantages: the proposal; advantage 0: cloned if it is the proposal's, not if it is the recorded action's
    batch = two_samples(
        q_data=[[[1.5], [1.5]], [[0.0], [0.0]]],
        model={"vae_action": [[[0.1]], [[0.9]]], "vae_action_q": [[[1.5]], [[1.0]]]},
    )
    assert_close(penalty(batch), tensor([[0.01], [0.0]]).double())


def vae_batch(value: float) -> Batch:
    return rows(
        q_data=[[[1.0], [2.0]], [[9.0], [9.0]]],
        value_pred=[[value], [value]],
        model={"vae_error": [[0.04], [0.09]], "vae_kl": [[0.2], [0.6]]},
    )


def test_the_behaviour_model_learns_actions_better_than_the_value_and_otherwise_only_its_divergence():
    # V 1.5: only the second is better: .5 * .2 and 1.5 * .09 + .5 * .6; V 2: none
    critic = make("critic", "behavior_vae", weight=1.5)
    assert_close(critic.loss(vae_batch(1.5)), tensor([[0.1], [0.435]]).double())
    assert_close(critic.loss(vae_batch(2.0)), tensor([[0.1], [0.3]]).double())
    everything = make("critic", "behavior_vae", all_actions=True)
    assert_close(everything.loss(vae_batch(2.0)), tensor([[0.14], [0.39]]).double())


def test_the_value_target_is_the_smaller_of_target_and_online_critics():
    # min(min(5, 4), min(3, 7)) = 3: 1 + .99 * 3; the loss (V - y)^2 with gradient 2 (V - y) = 2 (1.97)
    batch = rows(
        next_q=[[[5.0, 5.0]], [[4.0, 4.0]]],
        next_online_q=[[[3.0, 3.0]], [[7.0, 7.0]]],
        reward=[[1.0, 1.0]],
        terminated=[[False, True]],
        value_pred=[[5.94, 1.5]],
        grad="value_pred",
    )
    critic = make("critic", "td_value")
    assert_close(critic.target(batch), tensor([[3.97, 1.0]]).double())
    critic.loss(batch).sum().backward()
    assert_close(batch.value_pred.grad, tensor([[2 * 1.97, 1.0]]).double())


def domain_of(env: str = "Hopper-v5") -> ControlDomain:
    domain = ControlDomain({"env": env}, SMALL, normalize_observation=False, normalize_reward=False)
    models = {"behavior_vae": {"hidden": 16}}
    domain.build(Requirements(q=QSpec(), value=ValueSpec(), models=models, policy="deterministic"))
    return domain


def test_the_code_has_the_divergence_of_a_gaussian_from_the_standard_one():
    # log sigma is cut at -4; against torch's own formula, divided by the 6 dimensions of the code
    domain = domain_of()
    model = domain.models["behavior_vae"]
    with torch.no_grad():
        model.encoder.biases[-1][6:9] = -9.0
    batch = domain.rollout(5, unit="segment")
    decoded = model.decoded(batch.inputs["observation"], batch.inputs["action"])
    assert decoded.mean.shape == (1, 5, 6)
    assert_close(decoded.log_std[..., :3], torch.full((1, 5, 3), -4.0))
    gaussian = torch.distributions.Normal(decoded.mean, decoded.log_std.exp())
    wanted = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).mean(-1)
    assert_close(domain.score(batch, ["model.vae_kl"]).model["vae_kl"], wanted)


def test_training_the_model_and_guiding_the_policy_have_separate_gradients():
    domain = domain_of()
    model, critics = domain.models["behavior_vae"], [*domain.q.parameters(), *domain.value.parameters()]
    batch = domain.score(domain.rollout(8, unit="segment"), MODEL)
    assert batch.model["vae_action"].shape == (1, 8, 3)
    assert batch.model["vae_action_q"].shape == (1, 8, 2)
    assert not batch.model["vae_action_q"].requires_grad
    batch.model["vae_action"].sum().backward()
    assert all(parameter.grad is None for parameter in [*model.parameters(), *critics])
    assert all(parameter.grad is not None for parameter in domain.policy.parameters())
    domain.policy.zero_grad()
    (batch.model["vae_error"] + batch.model["vae_kl"]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in [*domain.policy.parameters(), *critics])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_model_multiplies_as_the_critics_do(precision):
    domain = ControlDomain({"env": "Hopper-v5"}, {"hidden": [8]}, precision=precision)
    domain.build(Requirements(q=QSpec(), models={"behavior_vae": {"hidden": 16}}, policy="deterministic"))
    model = domain.models["behavior_vae"]
    assert model.encoder.half_precision == model.decoder.half_precision == domain.q.half_precision


def test_the_proposal_is_valued_as_the_critic_values_it():
    domain = domain_of()
    batch = domain.score(domain.rollout(4, unit="segment"), MODEL)
    inputs = torch.cat([batch.inputs["observation"], batch.model["vae_action"]], -1)
    assert_close(batch.model["vae_action_q"].movedim(-1, 0), domain.q(inputs).detach())


def test_choices_have_no_such_model():
    with pytest.raises(UserError, match="encodes continuous actions"):
        ControlDomain({"env": "CartPole-v1"}, SMALL).build(Requirements(q=QSpec(), models={"behavior_vae": {}}))


def proposed(domain, state, action):
    """The autoencoder's action, and mean and deviation of its latent."""
    vae = domain.models["behavior_vae"]
    mean, log_std = vae.encoder(torch.cat([state, action], -1)).chunk(2, -1)
    std = log_std.clamp(-4, 15).exp()
    noise = torch.randn(len(mean), 1, mean.shape[1], generator=domain.generator)[:, 0]
    return vae.decoder(torch.cat([state, mean + std * noise], -1)).tanh(), mean, std


def written_out(domain, batch, name):
    """One of the three losses, mean over the batch, as the paper's appendix and code have it."""
    state, action = batch.inputs["observation"][:, 0], batch.inputs["action"][:, 0]
    value = domain.value(state)

    def q(chosen):
        return domain.q(torch.cat([state, chosen], -1))[0]

    if name == "behavior_vae":
        action_again, mean, std = proposed(domain, state, action)
        better = (q(action) > value).float()[:, None]
        latent = -0.5 * (1 + (std**2).log() - mean**2 - std**2).mean()
        return (better * (action_again - action) ** 2).mean() + 0.5 * latent
    if name == "value":
        following = torch.minimum(batch.next_q.amin(0), batch.next_online_q.amin(0))[:, 0]
        return (value - (batch.reward[:, 0] + 0.99 * ~batch.terminated[:, 0] * following)).square().mean()
    own = domain.policy.network(state).tanh()
    other, _, _ = proposed(domain, state, own)
    of_recorded, of_other = q(action) - value, q(other) - value
    target = torch.where((of_other >= of_recorded)[:, None], other, action)
    counts = ((of_other >= 0) | (of_recorded > 0)).float()[:, None]
    return -2.5 / q(own).abs().mean().detach() * q(own).mean() + 0.5 * (counts * (own - target) ** 2).mean()


@pytest.mark.parametrize("name", ["behavior_vae", "value", "policy"])
def test_a_step_of_the_whole_method_has_the_papers_loss_and_gradient(name):
    words = ["method=a2pr", "task=inverted_pendulum", "domain=control", "model.hidden=[16]", "domain.precision=float32"]
    trainer = build(
        compose([*words, "task.demonstrations.noise=0.5", "method.regularizers.0.coef=0.5", "out=unused"]), None
    )
    domain, method = trainer.domain, trainer.method
    batch = domain.dataset({"normalize_observation": True}).sample(64).replace(progress=0.0)
    batch = method.with_divisors(method.prepare(domain.score(batch, method.prepares_with)))
    parameters = domain.parameters(name)
    domain.generator.manual_seed(5)
    ours = method.losses(domain.score(batch, method.differentiates([name])), [name])[name]
    domain.generator.manual_seed(5)
    theirs = written_out(domain, batch, name)
    assert_close(ours, theirs)
    for mine, exact in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        assert_close(mine, exact, atol=1e-6, rtol=1e-4)

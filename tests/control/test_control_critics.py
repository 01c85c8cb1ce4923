"""Critics of every shape a specification can ask for, and what `score` makes of them."""

from typing import ClassVar

import pytest
import torch
from control_worlds import CLOCK, SMALL
from torch import Tensor, nn
from torch.testing import assert_close

from unirl.control import ControlDomain
from unirl.control.critics import AtomsMLP, SpreadMLP, q_network
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.networks import MLP
from unirl.control.score import Scorer
from unirl.domain import QSpec, Requirements, ValueSpec
from unirl.errors import UserError
from unirl.registry import register


def domain_of(requirements: Requirements) -> ControlDomain:
    domain = ControlDomain({"env": "Hopper-v5"}, SMALL, normalize_observation=False, normalize_reward=False)
    domain.build(requirements)
    return domain


def scored(domain: ControlDomain, *need: str):
    return domain.score(domain.rollout(6, unit="segment"), need)


def test_a_spread_is_the_softplus_of_the_second_output():
    domain = domain_of(Requirements(q=QSpec(std=True)))
    batch = scored(domain, "q_data", "q_data_std", "q", "q_std", "next_q", "next_q_std")
    inputs = torch.cat([batch.inputs["observation"], batch.inputs["action"]], -1)
    mean, raw = MLP.forward(domain.q, inputs).unbind(-1)
    assert_close(batch.q_data, mean)
    assert_close(batch.q_data_std, nn.functional.softplus(raw))
    assert batch.q_std.shape == (2, 1, 6)
    assert batch.q_std.requires_grad
    assert not batch.next_q_std.requires_grad
    assert (batch.next_q_std > 0).all()


def test_atoms_are_further_heads():
    domain = domain_of(Requirements(q=QSpec(heads=2, atoms=5)))
    batch = scored(domain, "q_data", "next_q")
    assert isinstance(domain.q, AtomsMLP)
    assert batch.q_data.shape == batch.next_q.shape == (10, 1, 6)
    inputs = torch.cat([batch.inputs["observation"], batch.inputs["action"]], -1)
    assert_close(batch.q_data.view(2, 5, 1, 6), MLP.forward(domain.q, inputs).movedim(-1, 1))


def test_the_target_copy_of_a_value_moves_with_its_tau():
    domain = domain_of(Requirements(value=ValueSpec(heads=2, tau=0.25)))
    before = [parameter.clone() for parameter in domain.target_value.parameters()]
    with torch.no_grad():
        for parameter in domain.value.parameters():
            parameter.add_(1.0)
    domain.update_targets()
    for old, new in zip(before, domain.target_value.parameters(), strict=True):
        assert_close(new, old + 0.25)
    batch = scored(domain, "value_pred", "next_value_pred", "target_value", "next_target_value")
    for name in ("value_pred", "next_value_pred", "target_value", "next_target_value"):
        assert getattr(batch, name).shape == (2, 1, 6), name
    assert batch.next_value_pred.requires_grad
    assert not batch.next_target_value.requires_grad


def test_values_of_terminal_states_are_zero_in_every_form():
    domain = ControlDomain(CLOCK, SMALL, normalize_observation=False, normalize_reward=False)
    domain.build(Requirements(value=ValueSpec(tau=0.1)))
    batch = scored(domain, "next_value", "next_value_pred", "next_target_value")
    assert batch.terminated.any()
    for name in ("next_value", "next_value_pred", "next_target_value"):
        assert (getattr(batch, name)[batch.terminated] == 0).all()
        assert (getattr(batch, name)[~batch.terminated] != 0).any()


def test_layer_norm_keeps_hidden_layers_at_unit_variance_whatever_the_input():
    network = q_network(QSpec(heads=3, layer_norm=True), 4, 2, False, SMALL)
    seen = []
    for norm in network.norms:
        norm.register_forward_hook(lambda module, args, output: seen.append(output))
    network(1000.0 * torch.randn(7, 6, generator=torch.Generator().manual_seed(0)))
    assert len(seen) == len(SMALL["hidden"])
    for hidden in seen:
        assert_close(hidden.mean(-1), torch.zeros(3, 7), atol=1e-4, rtol=0.0)
        assert_close(hidden.var(-1, correction=0), torch.ones(3, 7), atol=1e-3, rtol=0.0)


def test_a_frozen_critic_passes_the_gradient_on_to_the_action_alone():
    network = q_network(QSpec(std=True, layer_norm=True), 4, 2, False, SMALL)
    assert isinstance(network, SpreadMLP)
    x = torch.randn(3, 6, requires_grad=True)
    mean, std = network.estimate(x, frozen=True)
    (mean + std).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_units_are_dropped_in_scoring_and_nowhere_else():
    domain = domain_of(Requirements(q=QSpec(dropout=0.5), policy="tanh_gaussian", policy_options={"dropout": 0.5}))
    batch = domain.rollout(64, unit="segment")
    first, second = (domain.score(batch, {"q_data", "logp"}) for _ in range(2))
    assert not torch.equal(first.q_data, second.q_data)
    assert not torch.equal(first.logp, second.logp)
    observation = batch.inputs["observation"][0].numpy()
    assert (domain.act(observation) == domain.act(observation)).all()


def test_an_unknown_option_of_a_policy_is_refused():
    with pytest.raises(UserError, match=r"option of a method's policy 'dropuot'.*dropout"):
        domain_of(Requirements(policy_options={"dropuot": 0.1}))


@pytest.mark.parametrize("kind", ["tanh_gaussian", "gaussian_mixture", "bounded_gaussian"])
@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({"log_std_range": [-5, 2]}, -9.0, -5.0),
        ({"log_std_range": [-5, 2]}, -4.5, -4.5),
        ({"log_std_range": [-5, 2]}, 9.0, 2.0),
        ({"log_std_range": [-20, 0.5]}, 1.0, 0.5),
        ({"log_std_range": [-20, 0.5]}, -19.5, -19.5),
        ({"log_std_range": [-20, 0.5]}, -25.0, -20.0),
        ({}, 3.0, 2.0),
    ],
)
def test_log_deviations_end_at_the_range_of_the_policy(kind, options, given, expected):
    policy = domain_of(Requirements(q=QSpec(), policy=kind, policy_options=options)).policy
    with torch.no_grad():
        if kind == "bounded_gaussian":
            policy.log_std.fill_(given)
        else:
            policy.network.weights[-1].zero_()
            policy.network.biases[-1].fill_(given)
    log_std = policy(torch.zeros(2, 11)).log_std
    assert_close(log_std, torch.full_like(log_std, expected))


def test_log_deviations_end_where_their_policys_paper_has_it():
    for kind, lowest in (("tanh_gaussian", -20.0), ("gaussian_mixture", -20.0), ("bounded_gaussian", -5.0)):
        assert domain_of(Requirements(q=QSpec(), policy=kind)).policy.log_std_range == (lowest, 2.0)


@pytest.mark.parametrize("given", [[2, -5], [1, 1], [-5], [-5, 0, 2], -5, "-5, 2", ["low", 2], None])
def test_a_range_of_log_deviations_is_two_ascending_numbers(given):
    with pytest.raises(UserError, match=r"method\.policy\.log_std_range is .*; give two ascending numbers such as"):
        domain_of(Requirements(policy="tanh_gaussian", policy_options={"log_std_range": given}))


def test_choices_have_no_deviation_to_limit():
    domain = ControlDomain({"env": "CartPole-v1"}, SMALL)
    domain.build(Requirements(q=QSpec(), policy="auto", policy_options={"log_std_range": [-5, 2]}))
    assert domain.policy_kind == "categorical"


@register("model", "test_reward")
class RewardModel(AuxiliaryModel):
    """A linear model of the reward, for this test."""

    fields: ClassVar = {"predicted_reward": "predicted_reward"}

    def build(self, domain: ControlDomain) -> None:
        self.layer = nn.Linear(domain.observation_size, 1)

    def predicted_reward(self, scorer: Scorer) -> Tensor:
        return self.layer(scorer.observation).squeeze(-1)


def test_an_auxiliary_model_is_scored_trained_and_saved_with_the_domain():
    wanted = Requirements(models={"test_reward": {}})
    domain = domain_of(wanted)
    batch = scored(domain, "estimate.predicted_reward", "model.predicted_reward")
    assert not batch.estimate["predicted_reward"].requires_grad
    assert_close(batch.model["predicted_reward"], batch.estimate["predicted_reward"])
    batch.model["predicted_reward"].sum().backward()
    assert all(parameter.grad is not None for parameter in domain.parameters("test_reward"))
    with torch.no_grad():
        domain.parameters("test_reward")[0].add_(1.0)
    copy = domain_of(wanted)
    copy.load_state_dict(domain.state_dict())
    assert_close(copy.parameters("test_reward")[0], domain.parameters("test_reward")[0])
    with pytest.raises(ValueError, match=r"no auxiliary model of .* computes 'nothing'"):
        scored(domain, "model.nothing")

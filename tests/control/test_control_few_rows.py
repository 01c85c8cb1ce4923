"""The actor in numpy against torch's distributions."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from unirl.control import ControlDomain
from unirl.control.few_rows import FewRowsActor, can_act_on_few_rows
from unirl.control.policies import distribution
from unirl.domain import QSpec, Requirements

MODEL = {"hidden": [16, 16]}


def built(needs: Requirements, **model: object) -> ControlDomain:
    domain = ControlDomain({"env": "Hopper-v5"}, {**MODEL, **model}, normalize_observation=False)
    domain.build(needs)
    return domain


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("needs", [Requirements(), Requirements(q=QSpec())])
def test_log_densities_are_those_of_the_policy(needs, activation):
    domain = built(needs, activation=activation)
    batch = domain.rollout(50, unit="segment")
    assert_close(domain.score(batch, {"old_logp"}).old_logp, batch.behavior_logp, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("needs", [Requirements(), Requirements(q=QSpec())])
def test_actions_have_the_policys_mean_and_spread(needs):
    domain = built(needs)
    assert can_act_on_few_rows(domain.policy)
    seen = np.random.default_rng(0).normal(size=(1, 11)).astype(np.float32).repeat(20_000, 0)
    choice = FewRowsActor(domain.policy, np.random.default_rng(1))(seen, np.arange(len(seen)))
    ours = torch.from_numpy(choice.action)
    theirs = distribution(domain.policy, torch.from_numpy(seen)).sample(torch.Generator().manual_seed(0)).action
    assert choice.action.dtype == choice.logp.dtype == np.float32
    assert_close(ours.mean(0), theirs.mean(0), atol=0.04, rtol=0)  # six standard errors of a deviation of 1
    assert_close(ours.std(0), theirs.std(0), atol=0.03, rtol=0)


def test_log_deviations_stay_within_the_policys_range():
    # all outputs 1: a mean of 1 and a log deviation of 1, which is clipped to -1
    domain = built(Requirements(q=QSpec(), policy_options={"log_std_range": [-3.0, -1.0]}))
    with torch.no_grad():
        domain.policy.network.weights[-1].zero_()
        domain.policy.network.biases[-1].fill_(1.0)
    seen = np.zeros((20_000, 11), np.float32)
    raw = FewRowsActor(domain.policy, np.random.default_rng(0))(seen, np.arange(len(seen))).raw
    assert raw.std() == pytest.approx(np.exp(-1.0), abs=0.005)


def test_it_follows_the_weights():
    domain = built(Requirements())
    actor = FewRowsActor(domain.policy, np.random.default_rng(0))
    seen = np.ones((1, 11), np.float32)
    before = actor(seen, np.arange(1)).action
    with torch.no_grad():
        domain.policy.mean.biases[-1].add_(10.0)
    assert (actor(seen, np.arange(1)).action - before).min() > 5


@pytest.mark.parametrize("model", [{"policy": "bounded_gaussian"}, {"activation": "gelu"}])
def test_other_policies_are_left_to_torch(model):
    assert not can_act_on_few_rows(built(Requirements(), **model).policy)

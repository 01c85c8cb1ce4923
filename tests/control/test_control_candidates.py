"""Candidate actions of the control domain, and the recorded next action."""

import math

import numpy as np
import torch
from control_worlds import SMALL
from torch.testing import assert_close

from unirl.control import ControlDomain
from unirl.control.data.dataset import DataOptions, TransitionDataset
from unirl.control.data.transitions import Transitions
from unirl.domain import QSpec, Requirements

FIELDS = ("model.candidate_q", "model.candidate_logp", "model.candidate_own", "q_data")


def domain_of(env: str) -> ControlDomain:
    domain = ControlDomain({"env": env}, SMALL, normalize_observation=False, normalize_reward=False)
    domain.build(Requirements(q=QSpec(), models={"candidate_actions": {"each": 3}}))
    return domain


def test_candidates_are_uniform_of_the_policy_and_of_the_next_state_each_with_its_density():
    domain = domain_of("Hopper-v5")
    batch = domain.score(domain.rollout(6, unit="segment"), FIELDS)
    values, logp, own = (batch.model[f"candidate_{name}"] for name in ("q", "logp", "own"))
    assert values.shape == (1, 6, 9, 2)
    assert own[0, 0].tolist() == [0.0] * 3 + [1.0] * 6
    assert_close(logp[..., :3], torch.full((1, 6, 3), -3 * math.log(2)))  # three dimensions, [-1, 1] each
    assert not logp.requires_grad
    values.sum().backward()
    assert all(parameter.grad is not None for parameter in domain.q.parameters())
    assert all(parameter.grad is None for parameter in domain.policy.parameters())


def test_densities_of_candidates_are_of_the_very_actions_that_are_valued():
    domain = domain_of("Hopper-v5")
    batch = domain.rollout(5, unit="segment")
    seen = {}

    def remember(module, inputs):
        seen["inputs"] = inputs[0]

    handle = domain.q.register_forward_pre_hook(remember)
    scored = domain.score(batch, FIELDS[:3])
    handle.remove()
    observation, action = seen["inputs"].split([11, 3], -1)
    assert_close(observation, batch.inputs["observation"].expand(9, 1, 5, 11))
    for rows, state in ((slice(3, 6), "observation"), (slice(6, 9), "next_observation")):
        density = domain.policy(batch.inputs[state]).log_prob(action[rows])
        assert_close(scored.model["candidate_logp"].movedim(-1, 0)[rows], density, atol=1e-3, rtol=1e-3)


def test_of_choices_every_one_is_a_candidate():
    domain = domain_of("CartPole-v1")
    batch = domain.score(domain.rollout(4, unit="segment"), FIELDS)
    assert batch.model["candidate_q"].shape == (1, 4, 2, 2)
    assert_close(batch.model["candidate_logp"], torch.full((1, 4, 2), -math.log(2)))
    chosen = batch.inputs["action"][..., None, None].expand(1, 4, 1, 2)
    assert_close(batch.model["candidate_q"].gather(2, chosen)[:, :, 0].movedim(-1, 0), batch.q_data)


def test_the_next_recorded_action_is_zero_where_the_episode_ends():
    # actions 1 to 5; row 1 is terminal, row 3 timed out, row 4 is the last of the recording
    state = np.arange(5, dtype=np.float32)[:, None]
    data = Transitions(
        observations=state,
        actions=state + 1,
        rewards=np.zeros(5, np.float32),
        next_observations=state,
        terminals=np.array([0, 1, 0, 0, 0], dtype=bool),
        timeouts=np.array([0, 0, 0, 1, 0], dtype=bool),
    )
    batch = TransitionDataset(data, DataOptions(next_action=True)).sample(64)
    row = batch.inputs["observation"][:, 0, 0].long()
    assert_close(batch.next_reference_action[:, 0, 0], torch.tensor([2.0, 0.0, 4.0, 0.0, 0.0])[row])
    assert "next_reference_action" not in TransitionDataset(data).sample(2)

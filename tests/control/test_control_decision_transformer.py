"""Policies that look back, and policies that are asked for a return."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from control_worlds import CLOCK
from torch.testing import assert_close

from unirl.config import compose
from unirl.control import ControlDomain
from unirl.control.acting import HistoryActor
from unirl.control.asked_return import AskedReturn, ShowAskedReturn, with_returns
from unirl.control.data.dataset import DataOptions
from unirl.control.data.sequences import ReturnDataset, SequenceDataset
from unirl.control.data.transitions import Transitions
from unirl.control.envs import make_env
from unirl.control.mazes import crossing_routes
from unirl.domain import QSpec, Requirements
from unirl.errors import UserError
from unirl.run import build, evaluate, train

TINY = {"layers": 2, "embedding": 16, "attention_heads": 2, "dropout": 0.0, "context": 4}


def domain_of(task=CLOCK, **options) -> ControlDomain:
    domain = ControlDomain(task, {}, normalize_observation=False, normalize_reward=False)
    domain.build(Requirements(policy="decision_transformer", policy_options={**TINY, **options}))
    with torch.no_grad():  # GPT-2's start is close to zero: make differences visible
        for parameter in domain.policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return domain


def recorded() -> Transitions:
    """Episodes of rewards 1, 2, 3 and 4, 5; observations count the rows."""
    observations = np.arange(5, dtype=np.float32)[:, None]
    last = np.array([False, False, True, False, True])
    rewards, actions = np.arange(1, 6, dtype=np.float32), np.zeros((5, 1), dtype=np.float32)
    return Transitions(observations, actions, rewards, observations + 0.5, last, np.zeros(5, dtype=bool))


def test_a_decision_depends_on_the_past_alone():
    policy = domain_of().policy
    observation, action = torch.randn(1, 4, 2), torch.randn(1, 4, 1)
    before = policy(observation, action).mean
    later, acted = observation.clone(), action.clone()
    later[:, 2] += 1.0
    acted[:, 2] += 1.0
    seen, done = policy(later, action).mean, policy(observation, acted).mean
    assert_close(seen[:, :2], before[:, :2])
    assert (seen[:, 2:] != before[:, 2:]).all()
    assert_close(done[:, :3], before[:, :3])  # decision 2 does not know its own action
    assert (done[:, 3] != before[:, 3]).all()


def test_what_is_acted_is_what_is_scored():
    # the policy without noise, played for 3 decisions: the recorded actions are its modes given the recorded past
    domain = domain_of(exploration_std=0.0)
    batch = domain.score(domain.rollout(3), {"policy_action", "logp"})
    assert batch.mask.sum() == 9
    assert_close(batch.policy_action, batch.inputs["action"])
    assert_close(batch.logp, torch.zeros(3, 3), atol=1e-10, rtol=0)
    assert batch.inputs["action"].unique().numel() == 9


def test_an_actor_looks_back_on_context_decisions_of_each_row():
    domain = domain_of()
    actor = HistoryActor(domain.policy, 1, domain.device)
    generator = np.random.default_rng(0)
    seen = generator.normal(size=(7, 2)).astype(np.float32)
    actor(seen[:1] + 1.0, np.array([5]))  # another row, one decision ahead
    acted = []
    for t in range(7):
        other = generator.normal(size=(1, 2)).astype(np.float32)
        both = np.concatenate([other, seen[t : t + 1]])
        acted.append(actor(both, np.array([5, 3])).action[1])
    window = torch.from_numpy(seen[3:])[None], torch.from_numpy(np.stack(acted[3:]))[None]
    expected = domain.policy(*window, torch.arange(3, 7)[None]).mode()
    assert_close(torch.from_numpy(acted[6]), expected[0, 3].detach())


def test_dropout_is_off_while_acting_and_on_while_scoring():
    domain = domain_of(dropout=0.5)
    assert not any(module.training for module in domain.dropping)
    batch = domain.rollout(4)
    first, second = (domain.score(batch, {"logp"}).logp for _ in range(2))
    assert not torch.equal(first, second)


def test_a_policy_that_looks_back_refuses_what_it_cannot_do():
    domain = domain_of()
    assert not domain.info.independent_decisions
    with pytest.raises(UserError, match="looks back on whole episodes"):
        domain.rollout(4, unit="segment")
    with pytest.raises(UserError, match="neither filmed nor collected from"):
        domain.act(np.zeros((1, 2)))
    with pytest.raises(UserError, match=r"context=2 cannot score rows of 3 decisions"):
        short = domain_of(context=2)
        short.score(short.rollout(2), {"logp"})
    critic = ControlDomain(CLOCK, {}, normalize_observation=False)
    critic.build(Requirements(q=QSpec(), policy="decision_transformer", policy_options=TINY))
    with pytest.raises(UserError, match="no action at the next state"):
        critic.score(critic.rollout(2), {"next_q"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": 15}, "no multiple of 2 heads"),
        ({"layers": 0}, "whole numbers of at least 1"),
        ({"condition": "returns"}, "condition of a policy"),
        ({"contxt": 3}, r"option of a method's policy 'contxt' \(did you mean context"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        domain_of(**options)


@pytest.mark.parametrize(
    ("form", "shown"),
    [("return_to_go", [10.0, 9.0, 7.0, 4.0]), ("return_per_step", [2.0, 2.0, 2.0, 2.0])],
)
def test_the_environment_shows_what_is_left_of_the_return_or_one_mean_reward(form, shown):
    # the clock pays 1, 2, 3; its time limit is 5: of 10, 9, 7 and 4 are left, and the mean reward stays 10 / 5
    env = ShowAskedReturn(make_env(CLOCK), AskedReturn(form, 10.0))
    seen = [env.reset(seed=0)[0]]
    seen += [env.step(np.zeros(1, dtype=np.float32))[0] for _ in range(3)]
    assert [len(observation) for observation in seen] == [3] * 4
    np.testing.assert_allclose([observation[-1] for observation in seen], shown, rtol=1e-6)
    assert env.observation_space.contains(seen[0])


def test_recorded_decisions_show_the_return_that_followed():
    data = with_returns(recorded(), "return_to_go", 5)
    assert data.observations[:, 1].tolist() == [6, 5, 3, 9, 5]
    assert data.next_observations[:, 1].tolist() == [5, 3, 0, 5, 0]
    per_step = with_returns(recorded(), "return_per_step", 5)
    np.testing.assert_allclose(per_step.observations[:, 1], [6 / 5, 5 / 4, 3 / 3, 9 / 5, 5 / 4], rtol=1e-6)


def test_pieces_begin_anywhere_and_end_with_their_episode():
    data = SequenceDataset(recorded(), DataOptions(context=2, ask="return_to_go"), horizon=5)
    batch = data.sample(5000)
    begin = batch.inputs["observation"][:, 0, 0].long()
    share = torch.bincount(begin, minlength=5) / 5000
    assert_close(share, torch.full((5,), 0.2), atol=0.03, rtol=0)
    assert batch.mask.sum(1).tolist() == [[2, 2, 1, 2, 1][first] for first in begin.tolist()]
    assert batch.inputs["time"][:, 0].tolist() == [[0, 1, 2, 0, 1][first] for first in begin.tolist()]
    assert batch.inputs["observation"][:, 0, 1].tolist() == [[6, 5, 3, 9, 5][first] for first in begin.tolist()]
    assert (batch.inputs["observation"][~batch.mask] == 0).all()
    assert_close(batch.score, (batch.reward * batch.mask).sum(1))


def test_spliced_returns_are_what_was_collected_plus_what_another_episode_still_got():
    # A -> C (2) -> B (1) and D -> C (0) -> E (5). From A the waypoint is C (1/2), near which the other episode still
    # got 5: 2 + 5 = 7; or B (1/2), near which nobody else came: 2 + 1 = 3. From D: C 0 + 1 = 1, or E 0 + 5.
    data = replace(crossing_routes(), rewards=np.array([2, 1, 0, 5], dtype=np.float32))
    options = DataOptions(ask="return_to_go", relabel={"augment": 1.0, "clusters": 5})
    batch = ReturnDataset(data, options, horizon=2).sample(4000)
    observation = batch.inputs["observation"][:, 0]
    for place, values in (((0, 2), [3.0, 7.0]), ((0, 0), [1.0, 5.0])):
        shown = observation[(observation[:, :2] == torch.tensor(place)).all(-1), 2]
        assert sorted(shown.unique().tolist()) == values
        assert_close((shown == values[1]).float().mean(), torch.tensor(0.5), atol=0.06, rtol=0)


SMALL = ["task=inverted_pendulum", "task.demonstrations.episodes=2", "evaluation_episodes=1", "evaluations=1"]
RUNS = {
    "decision_transformer": ["method.policy.layers=1", "method.policy.embedding=16", "method.source.batch=8"],
    "rvs_r": ["model=mlp_small", "method.source.data.relabel={augment: 0.5, clusters: 5}"],
}


@pytest.mark.parametrize("method", RUNS)
def test_a_few_updates_ask_for_the_largest_recorded_return(method, tmp_path):
    words = [f"method={method}", *SMALL, *RUNS[method], "iterations=20", f"out={tmp_path / 'run'}"]
    result = train(compose(words))
    trainer = build(compose(words), None)
    assert trainer.domain.asked.target == 1000.0
    assert evaluate(tmp_path / "run")["score"] == result["score_end"]
    other = build(compose([*words, "method.policy.target_return=500"]), None)
    assert other.domain.asked.target == 500.0
    other.domain.load_state_dict(trainer.domain.state_dict())
    assert other.domain.asked.target == 1000.0


def test_pairs_of_states_are_drawn_for_goals_only():
    words = ["method=rvs_r", *SMALL, "method.source.data.relabel={draw: pair}", "out=unused"]
    with pytest.raises(UserError, match=r"relabel\.draw=pair draws goals"):
        build(compose(words), None)


def test_goals_may_be_asked_of_a_policy_that_looks_back(tmp_path):
    words = ["method=decision_transformer", "task=point_maze", "method.policy.condition=null", "iterations=5"]
    words += [*RUNS["decision_transformer"], "method.source.data.relabel={augment: 0.5, clusters: 10}"]
    words += ["task.demonstrations.episodes=4", "evaluation_episodes=1", "evaluations=1", f"out={tmp_path / 'run'}"]
    assert train(compose(words))["steps"] == 5
    goal = build(compose(words), None).source.next().inputs["observation"][..., 2:4]
    assert_close(goal[:, 0], goal[:, 1])


def test_a_return_has_to_come_from_somewhere():
    with pytest.raises(UserError, match=r"method\.policy\.target_return=R, or recorded data"):
        ShowAskedReturn(make_env(CLOCK), AskedReturn("return_to_go")).reset()

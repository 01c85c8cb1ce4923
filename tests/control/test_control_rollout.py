"""Roll-outs of worlds that can be followed by hand."""

import numpy as np
import pytest
import torch
from control_worlds import CLOCK, SMALL
from torch.testing import assert_close

from unirl.control import ControlDomain
from unirl.control.rollout import Recorder, row_scores
from unirl.domain import Opponent, QSpec, Requirements
from unirl.errors import UserError


def clock(life: int = 3, **options) -> ControlDomain:
    plain = {"normalize_observation": False, "normalize_reward": False}
    return ControlDomain({**CLOCK, "env_kwargs": {"life": life}}, SMALL, **{**plain, **options})


def test_a_segment_runs_over_terminations_and_keeps_the_final_observation():
    batch = clock(life=3).rollout(7, unit="segment")
    assert batch.inputs["observation"][0, :, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert batch.inputs["next_observation"][0, :, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert batch.terminated[0].tolist() == [False, False, True, False, False, True, False]
    assert not batch.truncated.any()
    assert batch.reward[0].tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert batch.mask.all()


def test_a_time_limit_truncates_and_does_not_terminate():
    batch = clock(life=99).rollout(6, unit="segment")
    assert batch.truncated[0].tolist() == [False] * 4 + [True, False]
    assert not batch.terminated.any()
    assert batch.inputs["next_observation"][0, 4, 0] == 5


def test_a_termination_at_the_time_limit_is_both():
    batch = clock(life=5).rollout(5, unit="segment")
    assert batch.terminated[0, 4]
    assert batch.truncated[0, 4]


def test_segments_continue_where_the_last_call_stopped():
    domain = clock(life=3, envs=2)
    first, second = domain.rollout(8, unit="segment"), domain.rollout(8, unit="segment")
    assert first.mask.shape == (2, 4)
    assert second.inputs["observation"][0, :, 0].tolist() == [1, 2, 0, 1]
    assert_close(second.inputs["observation"][:, 0], first.inputs["next_observation"][:, -1])
    assert first.inputs["observation"][0, 0, 1] != first.inputs["observation"][1, 0, 1]  # different resets


def test_the_score_of_a_segment_is_the_mean_raw_return_of_its_finished_episodes():
    domain = clock(life=3)
    assert domain.rollout(2, unit="segment").score.tolist() == [3.0]  # none finished: 1 + 2 so far
    assert domain.rollout(4, unit="segment").score.tolist() == [6.0]  # 1 + 2 + 3, begun in the last call


def test_row_scores_by_hand():
    # row 1: carried 10 + 1 ends at 11, then 2 + 3 ends at 5: mean 8; row 2 never ends: 7 + 1 + 2 + 3
    reward = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    ended = np.array([[True, False, True], [False, False, False]])
    scores, carry = row_scores(reward, ended, np.array([10.0, 7.0]))
    assert scores.tolist() == [8.0, 13.0]
    assert carry.tolist() == [0.0, 13.0]


def test_episodes_are_whole_and_padded_with_what_the_mask_excludes():
    domain = ControlDomain({"env": "Hopper-v5"}, SMALL)
    batch = domain.rollout(6)
    lengths = batch.mask.sum(-1)
    assert len(set(lengths.tolist())) > 1
    assert lengths.max() == batch.mask.shape[1]
    ended = batch.terminated | batch.truncated
    for row, length in enumerate(lengths.tolist()):
        assert batch.mask[row, :length].all()
        assert ended[row].nonzero().ravel().tolist() == [length - 1]
        assert not batch.inputs["observation"][row, length:].any()
        assert_close(batch.inputs["observation"][row, 1:length], batch.inputs["next_observation"][row, : length - 1])


def test_shapes_and_types_of_a_batch():
    batch = ControlDomain({"env": "Hopper-v5"}, SMALL, envs=2).rollout(10, unit="segment")
    shapes = {"observation": (2, 5, 11), "action": (2, 5, 3), "next_observation": (2, 5, 11)}
    assert {name: tuple(leaf.shape) for name, leaf in batch.inputs.items()} == shapes
    assert all(leaf.dtype == torch.float32 for leaf in batch.inputs.values())
    assert batch.reward.dtype == batch.behavior_logp.dtype == batch.score.dtype == torch.float32
    assert torch.equal(batch.reference_action, batch.inputs["action"])
    assert batch.group.dtype == batch.prompt_id.dtype == batch.source.dtype == torch.long


def test_rows_of_a_group_start_equal_and_go_apart():
    # without running statistics, which would show equal states at different scales
    domain = ControlDomain({"env": "Hopper-v5"}, SMALL, parallel_episodes=4, normalize_observation=False)
    batch = domain.rollout(6, group_size=3)
    starts, actions = batch.inputs["observation"][:, 0], batch.inputs["action"][:, 0]
    assert batch.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])
    assert torch.equal(starts[3], starts[5])
    assert not torch.equal(starts[0], starts[3])
    assert not torch.equal(actions[0], actions[1])
    assert batch.prompt_id[0] == batch.prompt_id[2] != batch.prompt_id[3]


def test_how_many_episodes_run_at_a_time_does_not_change_them():
    model = {**SMALL, "policy": "deterministic", "exploration_std": 0.0}
    few, many = (
        ControlDomain({"env": "Hopper-v5"}, model, parallel_episodes=count, normalize_observation=False).rollout(5)
        for count in (2, 5)
    )
    assert torch.equal(few.mask, many.mask)
    assert_close(few.score, many.score)
    assert torch.equal(few.prompt_id, many.prompt_id)


def test_recurring_start_states_recur():
    domain = clock(start_states=2)
    batch = domain.rollout(12)
    assert set(batch.prompt_id.tolist()) == {0, 1}
    drawn = {(int(p), float(x)) for p, x in zip(batch.prompt_id, batch.inputs["observation"][:, 0, 1], strict=True)}
    assert len(drawn) == 2


def test_score_stays_raw_where_rewards_are_scaled():
    domain = clock(life=3, normalize_reward=True)
    batch = domain.rollout(4)
    assert batch.score.tolist() == [6.0] * 4
    # discounted returns 1, 2.99, 5.9601 in every row
    deviation = np.std([1.0, 2.99, 5.9601])
    assert_close(batch.reward[0], torch.tensor([1.0, 2.0, 3.0]) / deviation)
    assert batch.rewards["raw"][0].tolist() == [1.0, 2.0, 3.0]


def test_behavior_log_densities_are_those_of_the_policy_that_sampled():
    domain = ControlDomain({"env": "Hopper-v5"}, {**SMALL, "policy": "tanh_gaussian"})
    batch = domain.score(domain.rollout(20, unit="segment"), {"old_logp"})
    assert_close(batch.behavior_logp, batch.old_logp)
    assert_close(batch.inputs["raw_action"].tanh(), batch.inputs["action"])


def test_uniform_exploration_fills_the_action_range_with_its_own_density():
    domain = clock()
    domain.build(Requirements(q=QSpec()))
    batch = domain.rollout(2000, unit="segment", uniform=True)
    action = batch.inputs["action"]
    assert action.abs().max() <= 1
    assert_close(action.var(), torch.tensor(1 / 3), atol=0.03, rtol=0)  # of U(-1, 1)
    assert_close(batch.behavior_logp, torch.full((1, 2000), -0.6931472))
    assert_close(batch.inputs["raw_action"].tanh(), action, atol=1e-5, rtol=0)


def test_opponent_rows_are_sampled_from_the_geometric_mixture():
    domain = clock(life=99)
    domain.build(Requirements(anchors=frozenset({"ref"})))
    with torch.no_grad():  # the policy becomes N(0, 1), its anchor N(10, 1): the mixture at 0.5 is N(5, 1)
        for network, mean in ((domain.policy, 0.0), (domain.anchors["ref"], 10.0)):
            network.mean.weights[-1].zero_()
            network.mean.biases[-1].fill_(mean)
    batch = domain.rollout(80, group_size=4, opponent=Opponent("ref", mixture=0.5, per_group=1))
    assert batch.source.reshape(-1, 4).tolist() == [[0, 0, 0, 1]] * 20
    theirs = batch.source == 1
    action = batch.inputs["action"].squeeze(-1)
    assert_close(action[theirs].mean(), torch.tensor(5.0), atol=0.4, rtol=0)
    assert_close(action[~theirs].mean(), torch.tensor(0.0), atol=0.4, rtol=0)
    own_center, their_center = torch.tensor(0.0), torch.tensor(5.0)
    center = torch.where(theirs[:, None], their_center, own_center)
    expected = -0.5 * (action - center).square() - 0.9189385
    assert_close(batch.behavior_logp, expected, atol=1e-5, rtol=1e-5)


def test_an_opponent_without_its_anchor_is_refused():
    with pytest.raises(ValueError, match="anchor 'ref' was not built"):
        clock().rollout(2, group_size=2, opponent=Opponent("ref"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 3, "unit": "segment"}, "3 decisions cannot be divided over 2 environments"),
        ({"n": 3, "group_size": 2}, "3 episodes cannot be divided into groups of 2"),
        ({"n": 3, "unit": "token"}, "source.unit 'token' does not exist in control: episode or segment"),
    ],
)
def test_counts_that_do_not_divide_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        clock(envs=2).rollout(**options)


def test_recorder_lays_decisions_out_by_row_and_column():
    recorder = Recorder()
    recorder.add(np.array([0, 2]), np.array([0, 0]), {"x": np.array([1.0, 2.0])})
    recorder.add(np.array([2]), np.array([1]), {"x": np.array([3.0])})
    tables = recorder.tables(3)
    assert tables["x"].tolist() == [[1, 0], [0, 0], [2, 3]]
    assert tables["mask"].tolist() == [[True, False], [False, False], [True, True]]

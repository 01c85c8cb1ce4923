"""Policy-agnostic RL [221]: the catalogue's numbers, of the actions and of the rows of a group."""

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import make
from unirl.control.action_improvement import climb, improve

CANDIDATES = tensor([-0.8, 0.0, 0.3, 0.9], dtype=torch.float64)[:, None]


def q(actions: Tensor) -> Tensor:
    """One critic, -(a - .5)^2: [1, K]."""
    return -(actions - 0.5).square().sum(-1)[None]


def test_the_two_best_are_kept_in_ascending_order_of_their_value():
    # Q: -1.69, -.25, -.04, -.16
    kept = improve(CANDIDATES, q, keep=2, steps=0)
    assert_close(kept.actions[:, 0], tensor([0.9, 0.3], dtype=torch.float64))
    assert_close(kept.values, tensor([-0.16, -0.04], dtype=torch.float64))


def test_ten_small_steps_and_the_softmax_over_the_two():
    found = improve(CANDIDATES, q, keep=2, steps=10, step_size=3e-4)
    assert_close(found.actions[:, 0], tensor([0.897606, 0.301197], dtype=torch.float64), atol=6e-7, rtol=0)
    assert_close(found.values, tensor([-0.158091, -0.039523], dtype=torch.float64), atol=6e-7, rtol=0)
    assert_close(found.weights(), tensor([0.470393, 0.529607], dtype=torch.float64), atol=6e-7, rtol=0)
    assert_close(found.best().item(), 0.301197, atol=6e-7, rtol=0)


def test_the_error_shrinks_by_four_fifths_a_step():
    # a' - .5 = (1 - .2) (a - .5)
    found = improve(CANDIDATES, q, keep=2, steps=10, step_size=0.1)
    assert_close(
        (found.actions[:, 0] - 0.5) / tensor([0.4, -0.2]), torch.full((2,), 0.1073742).double(), atol=6e-8, rtol=0
    )


def test_of_a_path_that_overshoots_the_best_iterate_is_returned():
    # step size 1: a' = 1 - a, from .9 to .1, .9, ...: all alike; 1.2: away from .5, so the start is the best
    moved, value = climb(CANDIDATES[3:], q, steps=5, step_size=1.2)
    assert_close(moved.item(), 0.9)
    assert_close(value.item(), -0.16)


def test_actions_stay_within_their_bounds():
    def far(actions: Tensor) -> Tensor:
        return -(actions - 3.0).square().sum(-1)[None]

    assert improve(CANDIDATES, far, keep=4, steps=3, step_size=1.0).actions.unique().tolist() == [1.0]


@pytest.mark.parametrize(("steps", "ascent", "passes"), [(0, "mean", 2), (2, "mean", 4), (2, "min", 5)])
def test_values_of_the_improved_actions_are_not_computed_twice(steps, ascent, passes):
    seen = []

    def counted(actions):
        seen.append(len(actions))
        return q(actions)

    recorded = tensor([-1.0], dtype=torch.float64)
    found = improve(CANDIDATES, counted, keep=2, steps=steps, step_size=0.1, ascent=ascent, recorded=recorded)
    assert len(seen) == passes  # the ranking, every step and the end of the last, and the mean where it is not known
    assert_close(found.values, q(found.actions).mean(0))


def test_the_recorded_action_takes_the_place_of_the_worst_kept_one():
    found = improve(CANDIDATES, q, keep=2, steps=0, recorded=tensor([-1.0], dtype=torch.float64))
    assert_close(found.actions[:, 0], tensor([0.3, -1.0], dtype=torch.float64))
    assert_close(found.values, tensor([-0.04, -2.25], dtype=torch.float64))


def test_the_path_may_follow_the_smallest_critic_while_the_weights_use_the_mean():
    def two(actions: Tensor) -> Tensor:
        return torch.stack([actions.sum(-1), -3.0 * actions.sum(-1)])

    # the smaller of a and -3 a at a = .3 is -3 a: downhill, .3 - .3 = 0; the mean of both is -a
    found = improve(CANDIDATES[2:3], two, keep=1, steps=1, step_size=0.1, ascent="min")
    assert_close(found.actions.item(), 0.0, atol=1e-12, rtol=0)
    found = improve(CANDIDATES[2:3], two, keep=1, steps=1, step_size=0.1, ascent="mean")
    assert_close(found.values.item(), -0.2)


def test_every_state_has_its_own_candidates():
    several = torch.stack([CANDIDATES, -CANDIDATES], 1)  # [4, 2, 1]
    found = improve(several, q, keep=2, steps=0)
    assert_close(found.actions[..., 0], tensor([[0.9, 0.0], [0.3, 0.8]], dtype=torch.float64))
    assert_close(found.best()[:, 0], tensor([0.3, 0.8], dtype=torch.float64))
    drawn = torch.stack([found.draw(torch.Generator().manual_seed(seed)) for seed in range(400)])
    share = (drawn[:, 0, 0] == 0.3).double().mean().item()
    assert abs(share - found.weights()[1, 0].item()) < 0.08


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.floats(0.0, 3.0), st.integers(0, 4))
def test_no_action_becomes_worse(start, step_size, steps):
    actions = tensor(start, dtype=torch.float64)[:, None]
    found = improve(actions, q, keep=len(start), steps=steps, step_size=step_size)
    assert (found.values >= q(actions)[0].sort().values - 1e-12).all()
    assert not found.actions.requires_grad


@settings(max_examples=25)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), st.integers(1, 6))
def test_rows_of_a_group_get_the_weights_that_actions_without_steps_get(scores, keep):
    keep, score = min(keep, len(scores)), tensor(scores, dtype=torch.float64)
    batch = rows(score=score, group=torch.zeros(len(scores), dtype=torch.long), mask=torch.ones(len(scores), 1) > 0)
    weight = make("selection", "best_of_group", keep=keep)(batch).weight[:, 0]
    found = improve(score[:, None], lambda actions: actions.sum(-1)[None], keep=keep, steps=0)
    assert_close(weight.sort().values[-keep:], found.weights().sort().values)
    assert (weight > 0).sum() == keep


def grouped(**fields):
    """Groups {0, 2} and {1, 3, 4} with the scores 1, 0, 3, 2, 2."""
    made = {"score": tensor([1.0, 0.0, 3.0, 2.0, 2.0], dtype=torch.float64), "group": tensor([7, 3, 7, 3, 3])}
    return rows(**made, logp=[[-1.0], [-2.0], [-3.0], [-4.0], [-5.0]], **fields)


def test_best_of_group_keeps_one_winner_of_each_group_and_the_first_of_equals():
    assert make("selection", "best_of_group")(grouped()).weight[:, 0].tolist() == [0, 0, 1, 1, 0]


def test_best_of_group_weighs_the_kept_rows_by_the_softmax_of_their_scores():
    # e^3 / (e^1 + e^3) = .880797; two equal winners share
    weight = make("selection", "best_of_group", keep=2)(grouped()).weight[:, 0]
    assert_close(weight, tensor([0.119203, 0, 0.880797, 0.5, 0.5], dtype=torch.float64), atol=6e-7, rtol=0)
    # at temperature 2: e^1.5 / (e^.5 + e^1.5) = .731059
    weight = make("selection", "best_of_group", keep=2, temperature=2.0)(grouped()).weight[:, 0]
    assert_close(weight[2].item(), 0.731059, atol=6e-7, rtol=0)


def test_best_of_group_multiplies_earlier_weights():
    batch = grouped(weight=[[2.0], [1.0], [0.0], [3.0], [1.0]])
    assert make("selection", "best_of_group")(batch).weight[:, 0].tolist() == [0, 0, 0, 3, 0]


def test_likelihood_of_the_winner_is_what_is_left_of_the_loss():
    batch = make("selection", "best_of_group")(grouped(grad="logp"))
    (make("reduce", "token_mean")(make("objective", "log_likelihood")(batch), batch)).backward()
    assert_close(batch.logp.grad[:, 0], tensor([0, 0, -0.2, -0.2, 0], dtype=torch.float64))

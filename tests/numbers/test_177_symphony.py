"""Symphony [177]: the catalogue's numbers and the formulas of its parts, by hand."""

import math

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import make
from unirl.control.symphony import Scaled, gradient_dropout
from unirl.critics.heads import over_heads
from unirl.critics.order_statistics import order_weights
from unirl.critics.rectified_huber import rectified, signed_rectified
from unirl.errors import UserError
from unirl.golden import PHI
from unirl.memory.fading import FadingReplay, fading_weights
from unirl.objectives.temporal import TemporalAdvantage
from unirl.regularizers.swaddling import effort


def test_symmetric_and_signed_errors():
    # 3 tanh 1.5 = 2.7154447609; .1 tanh .05 = .0049958375
    error = tensor([3.0, -3.0, 0.1], dtype=torch.float64)
    assert_close(
        rectified(error), tensor([2.7154447609, 2.7154447609, 0.0049958375], dtype=torch.float64), atol=6e-11, rtol=0
    )
    assert_close(signed_rectified(error)[1].item(), -2.7154447609, atol=6e-11, rtol=0)


def test_rectified_huber_is_a_regression_that_any_critic_can_take():
    # u = 3 and -.1: gradients in the prediction -(tanh(u/2) + u/2 (1 - tanh^2(u/2)))
    batch = rows(value_pred=[[0.0, 1.0]], returns=[[3.0, 0.9]], grad="value_pred")
    loss = make("critic", "v", loss="rectified_huber").loss(batch)
    assert_close(loss, tensor([[2.7154447609, 0.0049958375]], dtype=torch.float64), atol=6e-11, rtol=0)
    loss.sum().backward()
    slopes = [math.tanh(u / 2) + u / 2 * (1 - math.tanh(u / 2) ** 2) for u in (3.0, -0.1)]
    assert_close(batch.value_pred.grad, -tensor([slopes], dtype=torch.float64))


@settings(max_examples=25)
@given(st.floats(-20, 20))
def test_signed_error_is_the_symmetric_one_with_a_sign(error):
    e = tensor(error, dtype=torch.float64)
    assert_close(signed_rectified(e), rectified(e) * e.sign())
    assert rectified(e) <= e.abs()
    assert rectified(e) <= e.square() / 2 * (1 + 1e-12) + 1e-300  # rounding; squares below that are subnormal


def test_fading_weights():
    age = tensor([0.0, 0.25, 0.5, PHI / 2, 1.0], dtype=torch.float64)
    expected = tensor([0.0132607, 0.5601925, 0.9771742, 1.0, 0.9983139], dtype=torch.float64)
    assert_close(fading_weights(age), expected, atol=6e-8, rtol=0)


def memory_of(count: int, capacity: int, **options) -> FadingReplay:
    memory = FadingReplay(capacity, seed=0, **options)
    for place in range(count):
        memory.add(one(reward=float(place)))
    return memory


def one(reward: float, action: float = 0.0):
    values = {"reward": tensor([[reward]]), "inputs": {"action": tensor([[[action, action]]])}}
    return rows(**values, terminated=tensor([[False]]), truncated=tensor([[False]]))


@pytest.mark.parametrize(("count", "capacity"), [(8, 8), (8, 100), (13, 8)])
def test_the_memory_draws_by_age_also_where_the_ring_has_closed(count, capacity):
    memory, oldest = memory_of(count, capacity), max(count - capacity, 0)
    drawn = memory.sample(20000).reward[:, 0] - oldest
    share = torch.bincount(drawn.long(), minlength=8) / 20000
    weights = fading_weights(torch.arange(8) / 8)
    assert_close(share, weights / weights.sum(), atol=0.012, rtol=0)


def test_the_first_decisions_are_repeated_and_rewards_measured_by_them():
    # |-2| = 2: later rewards are halved; bonus .1 (3^2 + 3^2) = 1.8
    memory = FadingReplay(100, seed=0, repeat=5, scale_rewards=True)
    memory.add(one(-2.0))
    assert len(memory) == 5
    memory.add(one(3.0))
    assert len(memory) == 6
    assert sorted(memory.sample(500).reward.unique().tolist()) == [-1.0, 1.5]
    bonus = FadingReplay(10, seed=0, action_bonus=0.1)
    bonus.add(one(1.0, action=3.0))
    assert_close(bonus.sample(1).reward.item(), 2.8)


def test_the_memory_continues_its_draws():
    memory, again = memory_of(13, 8), FadingReplay(8, seed=5)
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.sample(50).reward, memory.sample(50).reward)
    with pytest.raises(UserError, match="repeat is 0"):
        FadingReplay(8, seed=0, repeat=0)


def test_order_weights_count_low_and_middle_values():
    # i/q = 0, 1/4, 1/2, 3/4 against 1 - phi/2 = .190983: the first is exp(-(phi .190983)^5.43656) = .998314
    raw = tensor([0.9983139, 0.9999972, 0.9771742, 0.5601925], dtype=torch.float64)
    assert_close(order_weights(4), raw / raw.sum(), atol=1e-7, rtol=0)
    assert_close(order_weights(192).sum().item(), 1.0)
    assert order_weights(192)[-1] < 0.02 * order_weights(192)[0]


def test_ordered_heads_do_not_depend_on_their_order():
    values = tensor([4.0, 1.0, 3.0, 2.0], dtype=torch.float64)[:, None, None]
    expected = (order_weights(4) * tensor([1.0, 2.0, 3.0, 4.0])).sum()
    assert_close(over_heads(values, "ordered").item(), expected.item())
    leaf = values.clone().requires_grad_()
    over_heads(leaf, "ordered").sum().backward()
    assert_close(leaf.grad[:, 0, 0], order_weights(4)[[3, 0, 2, 1]])


@settings(max_examples=25)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9))
def test_the_ordered_mean_lies_between_the_smallest_and_the_mean(values):
    nodes = tensor(values, dtype=torch.float64)[:, None, None]
    ordered = over_heads(nodes, "ordered").item()
    assert (
        nodes.min().item() - 1e-9 <= ordered <= nodes.mean().item() + 0.02 * (nodes.max() - nodes.min()).item() + 1e-9
    )


def strength(x: float, k: float, **fields):
    scale, damping = (tensor([[[value]]], dtype=torch.float64, requires_grad=True) for value in (x, k))
    return rows(model={"next_scale": scale, "next_damping": damping}, mask=tensor([[True]]), **fields), scale, damping


def test_swaddling_by_hand():
    # x = .25, k = .5: ln(1.0625 / .9375) + .125 ln .25 = .125163 - .173287; ln(1.25 / .75) = .510826
    batch, scale, damping = strength(0.25, 0.5)
    penalty = make("regularizer", "swaddling")(batch)
    assert_close(effort(scale, damping).item(), -0.0481236, atol=6e-8, rtol=0)
    assert_close(penalty.item(), -0.0481236 + 0.5108256, atol=1e-7, rtol=0)
    penalty.sum().backward()
    # x: 2 / (1 - x^4) 2 x + k (ln x + 1); k: x ln x + 4 k / (1 - k^4), as the exponent 1/k is constant
    assert_close(scale.grad.item(), 2 / (1 - 0.25**4) * 0.5 + 0.5 * (math.log(0.25) + 1))
    assert_close(damping.grad.item(), 0.25 * math.log(0.25) + 2 / (1 - 0.5**4))


def test_swaddling_stays_finite_at_the_ends():
    for x, k in ((0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
        batch, scale, damping = strength(x, k)
        penalty = make("regularizer", "swaddling")(batch)
        penalty.sum().backward()
        assert all(torch.isfinite(value).all() for value in (penalty, scale.grad, damping.grad))


def transition(**fields):
    """Two heads of one node: 1 and 3 for the recorded action, 2 and 4 at the next state; reward 1."""
    made = {
        "q_data": tensor([[[1.0]], [[3.0]]], dtype=torch.float64),
        "next_target_q_pred": tensor([[[2.0]], [[4.0]]], dtype=torch.float64),
    }
    made |= {"reward": [[1.0]], "terminated": [[False]]}
    return strength(0.25, 0.5, **(made | fields))[0]


def test_node_q_bootstraps_from_what_the_policy_ascends_less_its_effort():
    # mean 3, effort -.0481236: 1 + .5 (3 + .0481236); all nodes are regressed on it, and averaged
    critic = make("critic", "node_q", gamma=0.5, target="mean", loss="mse")
    target = 1 + 0.5 * 3.0481236
    assert_close(critic.target(transition()).item(), target, atol=6e-8, rtol=0)
    assert_close(critic.loss(transition()).item(), ((1 - target) ** 2 + (3 - target) ** 2) / 2, atol=1e-6, rtol=0)
    assert make("critic", "node_q", gamma=0.5, target="mean", cost=False).target(transition()).item() == 2.5
    assert critic.target(transition(terminated=[[True]])).item() == 1.0


def test_node_q_trains_the_recorded_value_alone():
    leaves = {
        name: tensor([[[1.0]], [[3.0]]], dtype=torch.float64).requires_grad_()
        for name in ("q_data", "next_target_q_pred")
    }
    batch = transition(**leaves)
    make("critic", "node_q").loss(batch).sum().backward()
    assert leaves["q_data"].grad is not None
    assert leaves["next_target_q_pred"].grad is None
    assert batch.model["next_scale"].grad is None


def test_reward_head_is_regressed_on_the_reward():
    # u = 3
    predicted = tensor([[1.0]], dtype=torch.float64).requires_grad_()
    loss = make("critic", "reward_head").loss(rows(model={"reward": predicted}, reward=[[4.0]]))
    assert_close(loss.item(), 2.7154447609, atol=6e-11, rtol=0)


def ascent(objective: TemporalAdvantage, *values: float) -> tuple[Tensor, Tensor]:
    q = tensor(values, dtype=torch.float64)[:, None].requires_grad_()
    return objective(rows(next_target_q_pred=q)), q


def test_temporal_advantage_by_hand():
    # decay .5: m = .5 * 0 + .5 * 2 = 1; (1 - 1) / 1 = 0 and (3 - 1) / 1 = 2: -2 tanh 1
    objective = make("objective", "temporal_advantage", target="mean", decay=0.5)
    loss, q = ascent(objective, 1.0, 3.0)
    assert_close(loss[:, 0], tensor([0.0, -2 * math.tanh(1.0)], dtype=torch.float64), atol=1e-7, rtol=0)
    loss.sum().backward()
    # d/dq |A| tanh(A / 2) = tanh(A / 2) + A / 2 (1 - tanh^2(A / 2)), m constant
    assert_close(q.grad[1].item(), -(math.tanh(1.0) + (1 - math.tanh(1.0) ** 2)), atol=1e-6, rtol=0)
    # then m = .5 * 1 + .5 * -3 = -1: (-3 + 1) / |-1| = -2
    assert_close(ascent(objective, -3.0)[0].item(), 2 * math.tanh(1.0), atol=1e-6, rtol=0)


def test_temporal_advantage_of_the_third_version_has_a_baseline_for_every_decision():
    # baselines .5 * 0 + .5 q: (q - q / 2) / |q / 2| = sign q
    objective = make("objective", "temporal_advantage", target="mean", decay=0.5, baseline="decision")
    loss, _ = ascent(objective, 1.0, -3.0)
    assert_close(loss[:, 0], tensor([-math.tanh(0.5), math.tanh(0.5)], dtype=torch.float64), atol=1e-7, rtol=0)


def test_the_moving_average_is_kept():
    objective, again = (make("objective", "temporal_advantage", target="mean") for _ in range(2))
    ascent(objective, 5.0)
    assert_close(objective.average.value.item(), 5 * (1 - 1 / PHI), atol=1e-6, rtol=0)
    again.load_state_dict(objective.state_dict())
    assert_close(ascent(again, 1.0)[0], ascent(objective, 1.0)[0])


def test_scores_may_be_measured_by_their_moving_average():
    # decay 0: m = 2; (1 - 2) / 2 = -.5, (3 - 2) / 2 = .5; squashed .5 tanh .25
    batch = rows(score=tensor([1.0, 3.0]), mask=tensor([[True, False], [True, True]]))
    plain = make("advantage", "temporal", decay=0.0)(batch).advantage
    assert plain.tolist() == [[-0.5, 0.0], [0.5, 0.5]]
    squashed = make("advantage", "temporal", decay=0.0, squash=True)(batch).advantage
    assert_close(squashed[1, 0].item(), 0.5 * math.tanh(0.25), atol=1e-6, rtol=0)
    assert make("advantage", "temporal", decay=0.0, scale=False)(batch).advantage[1, 1].item() == 1.0
    with pytest.raises(UserError, match="decay of a moving average is 1"):
        make("advantage", "temporal", decay=1.0)


def test_the_policy_adds_clipped_noise_of_fixed_size():
    mean = torch.zeros(100000, 1)
    made = Scaled(mean, torch.full_like(mean, -1.0), mean, mean)
    raw = made.rsample(torch.Generator().manual_seed(0)).action.atanh()
    assert raw.abs().max().item() == pytest.approx(1.0, abs=1e-5)  # e / e
    assert abs(raw.std().item() * math.e - 0.99) < 0.01  # the standard deviation of a Gaussian clipped at e is .988
    assert made.mode().eq(0).all()


def test_gradient_dropout_leaves_values_and_half_of_the_gradients():
    x = torch.linspace(-1, 1, 10000, requires_grad=True)
    y = gradient_dropout(x, 0.5)
    y.sum().backward()
    assert torch.equal(y, x)
    assert set(x.grad.tolist()) == {0.0, 1.0}
    assert abs(x.grad.mean().item() - 0.5) < 0.03


def test_a_memory_is_given_by_name():
    with pytest.raises(UserError, match=r"source\.memory is .* give it as \{name: fading"):
        make("source", "replay", memory={"repeat": 2})
    source = make("source", "replay", memory={"name": "fadign"})
    with pytest.raises(UserError, match="did you mean fading"):
        source.start(None, seed=0)

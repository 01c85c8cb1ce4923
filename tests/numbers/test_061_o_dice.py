"""O-DICE [61]: the catalogue's numbers for the projected gradient and the dual state value."""

from typing import Any

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, tensor
from torch.testing import assert_close

from unirl import make
from unirl.config import method_config
from unirl.errors import UserError

LAM, GAMMA = 0.6, 0.9
STATE, NEXT = tensor([1.0, 0.0]).double(), tensor([0.6, 0.8]).double()


def transition(theta: Tensor) -> object:
    """V = theta . phi of one transition with reward 1; the target copy has the same weights."""
    here, there = (theta @ STATE)[None, None], (theta @ NEXT)[None, None]
    return rows(
        value_pred=here,
        next_value_pred=there,
        value=here.detach(),
        target_value=here.detach(),
        next_target_value=there.detach(),
        reward=[[1.0]],
        terminated=[[False]],
    )


def gradient(*sides: str, rule: Any = None, eta: float = 1.0) -> Tensor:
    """The gradient in theta = (1, 1) of the named terms, by a rule."""
    theta = nn.Parameter(torch.ones(2).double())
    critics = {f"value/{side}": make("critic", "dice", side=side, lam=LAM, eta=eta, gamma=GAMMA) for side in sides}

    def closure(names):
        losses = {name: critics[name].loss(transition(theta)).mean() for name in names}
        sum(losses.values()).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    (rule or make("gradient", "plain"))(closure, list(critics), [theta], 0.1)
    assert theta.grad is not None
    return theta.grad


def orthogonal():
    return make("gradient", "orthogonal", first="value/forward", second="value/backward")


def test_gradients_of_the_four_terms_of_a_linear_value():
    # e = 1 + .9 * 1.4 - 1 = 1.26, f*' = 1.63: forward -.6 * 1.63 phi(s), backward .6 * .9 * 1.63 phi(s')
    assert_close(gradient("forward"), tensor([-0.978, 0.0]).double())
    assert_close(gradient("backward"), tensor([0.52812, 0.70416]).double())
    assert_close(gradient("state"), tensor([0.4, 0.0]).double())
    assert_close(gradient("state", "both"), tensor([-0.04988, 0.70416]).double())


def test_the_backward_gradient_is_projected_off_the_forward_one():
    # c = .52812 * -.978 / .978^2 = -.54: what is left of the backward gradient is (0, .70416)
    total = gradient("state", "forward", "backward", rule=orthogonal())
    assert_close(total, tensor([-0.578, 0.70416]).double())
    forward = gradient("forward")
    left = total - gradient("state") - forward
    assert_close((left @ forward).item(), 0.0)


def test_without_the_backward_term_it_is_the_semi_gradient():
    semi = gradient("state", "forward")
    assert_close(gradient("state", "forward", "backward", rule=orthogonal(), eta=0.0), semi)
    assert_close(semi, tensor([-0.578, 0.0]).double())


def test_without_the_projection_it_is_the_true_gradient_where_the_target_copy_is_equal():
    assert_close(gradient("state", "forward", "backward"), gradient("state", "both"))


@settings(max_examples=30, derandomize=True)
@given(st.lists(st.floats(-3, 3), min_size=8, max_size=8), st.sampled_from([("policy", "value"), ("q", "value/x")]))
def test_the_projection_serves_any_two_named_losses(numbers, names):
    first, second = tensor(numbers).double().view(2, 4)
    parameters = [nn.Parameter(torch.zeros(3).double()), nn.Parameter(torch.zeros(1).double())]

    def closure(asked):
        weight = torch.cat(parameters)
        losses = {
            name: weight @ {names[0]: first, names[1]: second}.get(name, torch.ones(4).double()) for name in asked
        }
        sum(losses.values()).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    rule = make("gradient", "orthogonal", first=names[0], second=names[1])
    assert list(rule(closure, [*names, "other"], parameters, 0.1)) == [*names, "other"]
    total = torch.cat([parameter.grad for parameter in parameters])
    left = total - 1 - first
    assert_close((left @ first).item(), (second @ first).item() if first.norm() < 1e-5 else 0.0, atol=1e-9, rtol=1e-9)
    # what is removed is along the first gradient: the second loss still falls by what is left of its own
    assert_close((left @ second).item(), left.square().sum().item(), atol=1e-9, rtol=1e-9)


def test_a_block_without_the_two_losses_is_left_alone_and_one_with_half_of_them_refused():
    weight = nn.Parameter(torch.zeros(2))

    def closure(names):
        weight.sum().backward()
        return dict.fromkeys(names, torch.zeros(()))

    orthogonal()(closure, ["policy"], [weight], 0.1)
    assert weight.grad.tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match=r"loss 'value/backward' is not stepped with value/forward"):
        orthogonal()(closure, ["value/forward"], [weight], 0.1)


def test_conjugate_is_minus_one_below_minus_two():
    # one terminated decision each: e = r - V = r
    rewards = [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0]
    batch = rows(value_pred=[[0.0] * 6], next_target_value=[[9.0] * 6], reward=[rewards], terminated=[[True] * 6])
    loss = make("critic", "dice", side="forward", lam=0.5).loss(batch)
    assert_close(2 * loss[0], tensor([-1.0, -1.0, -0.75, 0.0, 1.25, 3.0]).double())


def bandit(lam: float) -> tuple[float, list[float], list[float]]:
    """Optimal V of one state with rewards 0, 1, 2, and the analytic and relu weights there."""
    value = nn.Parameter(tensor(0.0, dtype=torch.float64))
    optimizer = torch.optim.LBFGS([value], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    terms = [make("critic", "dice", side=side, lam=lam) for side in ("state", "forward")]

    def batch(**more):
        known = {"reward": [[0.0, 1.0, 2.0]], "terminated": [[True] * 3], "next_target_value": [[0.0] * 3]}
        return rows(value_pred=value.expand(1, 3), **known, **more)

    def closure():
        optimizer.zero_grad()
        loss = sum(term.loss(batch()).mean() for term in terms)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = batch(value=value.detach().expand(1, 3))
    weights = [make("advantage", "dice_ratio", weight=weight)(found).advantage[0] for weight in ("analytic", "relu")]
    return value.item(), weights[0].tolist(), weights[1].tolist()


@pytest.mark.parametrize(
    ("lam", "value", "analytic", "relu"),
    [
        (0.5, 1.0, [0.5, 1.0, 1.5], [0.0, 0.0, 1.0]),
        (0.6, 5 / 3, [1 / 6, 2 / 3, 7 / 6], [0.0, 0.0, 1 / 3]),
        (2 / 3, 2.0, [0.0, 0.5, 1.0], [0.0, 0.0, 0.0]),
        (0.8, 2.75, [0.0, 0.125, 0.625], [0.0, 0.0, 0.0]),
    ],
)
def test_bandit_of_one_state(lam, value, analytic, relu):
    found = bandit(lam)
    assert found[0] == pytest.approx(value, abs=1e-6)
    assert found[1] == pytest.approx(analytic, abs=1e-6)
    assert found[2] == pytest.approx(relu, abs=1e-6)


def test_the_loss_and_the_weight_are_averaged_over_twins():
    # e = 1 and -3 of two heads: (1.25 - 1) / 2 * .6; relu (1 + 0) / 2; analytic (1.5 + 0) / 2
    heads = tensor([[[0.0]], [[4.0]]]).double()
    batch = rows(
        value_pred=heads, value=heads, next_target_value=torch.zeros(2, 1, 1), reward=[[1.0]], terminated=[[True]]
    )
    assert_close(make("critic", "dice", side="forward").loss(batch).item(), 0.075)
    assert make("advantage", "dice_ratio")(batch).advantage.item() == 0.5
    assert make("advantage", "dice_ratio", weight="analytic")(batch).advantage.item() == 0.75
    assert make("advantage", "dice_ratio", max_weight=0.25)(batch).advantage.item() == 0.125


def test_twins_have_one_target_the_smaller():
    # V = 0 and 4, target copies 2 and 6 here, 10 and 20 next: e = 1 + .5 * 10 - V = 6 and 2, backward with V(s') 2 and
    # 8: 1 + .5 * V(s') - 2 = 0 and 3; f* = e + e^2/4 is 15, 3 and 0, 5.25
    batch = rows(
        value_pred=[[[0.0]], [[4.0]]],
        value=[[[0.0]], [[4.0]]],
        next_value_pred=[[[2.0]], [[8.0]]],
        target_value=[[[2.0]], [[6.0]]],
        next_target_value=[[[10.0]], [[20.0]]],
        reward=[[1.0]],
        terminated=[[False]],
    )
    assert make("critic", "dice", side="forward", lam=0.5, gamma=0.5).loss(batch).item() == 4.5
    assert make("critic", "dice", side="backward", lam=0.5, gamma=0.5).loss(batch).item() == 0.5 * 5.25 / 2
    assert make("advantage", "dice_ratio", gamma=0.5)(batch).advantage.item() == 4.0
    assert make("advantage", "dice_ratio", gamma=0.5, target="mean")(batch).advantage.item() == 6.5


def test_the_method_imitates_decisions_that_are_as_good_as_their_state():
    # where no decision is better than another, lam f*'(e) = 1 - lam: e = -2/3 and the weight is 2/3, but max(e, 0) is 0
    config = method_config("o_dice")
    lam = config["critic"][0]["lam"]
    settled = 2 * (1 - lam) / lam - 2
    batch = rows(value=[[-settled]], next_target_value=[[0.0]], reward=[[0.0]], terminated=[[True]])
    found = make("advantage", **config["advantage"][0])(batch).advantage
    assert_close(found.item(), (1 - lam) / lam)


def test_rows_of_another_source_do_not_count():
    fields = {"value_pred": [[1.0], [2.0], [3.0], [4.0]], "source": tensor([3, 2, 3, 2])}
    batch = rows(
        **fields, value=[[0.0]] * 4, next_target_value=[[0.0]] * 4, reward=[[1.0]] * 4, terminated=[[True]] * 4
    )
    # state term .4 V, mean over the rows of source 3: .4 (1 + 3) / 2 = .8
    assert_close(make("critic", "dice", side="state", source=3).loss(batch).mean().item(), 0.8)
    weighed = make("advantage", "dice_ratio", source=3)(batch)
    assert weighed.advantage.flatten().tolist() == [1.0, 0.0, 1.0, 0.0]


def test_wrong_options_are_one_line():
    for options in ({"side": "sideways"}, {"side": "state", "lam": 1.0}, {"side": "both", "divergence": "tv"}):
        with pytest.raises(UserError):
            make("critic", "dice", **options)
    for options in ({"weight": "exp"}, {"divergence": "tv"}, {"max_weight": 0.0}):
        with pytest.raises(UserError):
            make("advantage", "dice_ratio", **options)

"""Critics: targets and losses by hand, and where gradients must not flow."""

import pytest
import torch
from helpers import rows
from hypothesis import given
from strategies import batches, with_leaf
from torch import tensor
from torch.testing import assert_close

from unirl import make
from unirl.domain import QSpec
from unirl.errors import UserError


def transition(**fields):
    """Reward 1; target heads 4 and 6 at the next state, recorded-action heads 2 and 5."""
    made = {
        "reward": [[1.0]],
        "terminated": [[False]],
        "next_q": [[[4.0]], [[6.0]]],
        "next_logp": [[-2.0]],
        "q_data": [[[2.0]], [[5.0]]],
        "next_value": [[10.0]],
        "temperature": tensor(0.5).double(),
    }
    return rows(**{**made, **fields})


def test_q_target_takes_the_smaller_head():
    # 1 + .5 * 4 = 3; mean 5: 3.5; first 4
    assert make("critic", "q", gamma=0.5).target(transition()).item() == 3.0
    assert make("critic", "q", gamma=0.5, target="mean").target(transition()).item() == 3.5
    assert make("critic", "q", gamma=0.5, target="first").target(transition()).item() == 3.0


def test_q_does_not_bootstrap_at_a_termination():
    ended = transition(terminated=[[True]], next_q=[[[float("nan")]], [[float("nan")]]])
    assert make("critic", "q").target(ended).item() == 1.0
    assert make("critic", "soft_q").target(ended).item() == 1.0


def test_q_may_bootstrap_from_a_state_value():
    critic = make("critic", "q", gamma=0.5, bootstrap="value")
    assert critic.target(transition()).item() == 6.0
    assert critic.requirements().value and "next_value" in critic.reads and "next_q" not in critic.reads


def test_q_loss_is_summed_over_heads_and_trains_only_the_recorded_action():
    # y = 3: (2 - 3)^2 + (5 - 3)^2 = 5; gradients 2 * -1 and 2 * 2; the next values are constants
    q_data = tensor([[[2.0]], [[5.0]]], dtype=torch.float64, requires_grad=True)
    next_q = tensor([[[4.0]], [[6.0]]], dtype=torch.float64, requires_grad=True)
    loss = make("critic", "q", gamma=0.5).loss(transition(q_data=q_data, next_q=next_q))
    loss.sum().backward()
    assert loss.tolist() == [[5.0]]
    assert q_data.grad.flatten().tolist() == [-2.0, 4.0] and next_q.grad is None


def test_q_works_with_a_single_critic_without_a_head_dimension():
    single = transition(q_data=[[2.0]], next_q=[[4.0]])
    assert make("critic", "q", gamma=0.5, heads=1).loss(single).item() == 1.0


def test_soft_q_target_includes_the_entropy_of_the_next_action():
    # 1 + .5 (4 - .5 * -2) = 3.5; half of (2 - 3.5)^2 + (5 - 3.5)^2 = 2.25
    critic = make("critic", "soft_q", gamma=0.5)
    assert critic.target(transition()).item() == 3.5
    assert critic.loss(transition()).item() == 2.25
    assert make("critic", "soft_q", gamma=0.5, half=False).loss(transition()).item() == 4.5


@given(batches())
def test_soft_q_at_temperature_zero_is_q(batch):
    cold = batch.replace(temperature=0.0)
    assert_close(make("critic", "soft_q").target(cold), make("critic", "q").target(cold))


def test_q_requirements_describe_the_networks():
    critic = make("critic", "q", heads=3, tau=0.01, smoothing={"std": 0.2, "clip": 0.5}, target_policy=True)
    spec = QSpec(heads=3, tau=0.01, smoothing_std=0.2, smoothing_clip=0.5, target_policy=True, join="min")
    assert critic.requirements().q == spec and not critic.requirements().value
    assert make("critic", "soft_q").requirements().q == QSpec(heads=2, tau=0.005, join="min")
    assert make("critic", "v").requirements().value


def test_critics_refuse_unknown_options():
    for hyper in ({"target": "median"}, {"bootstrap": "v"}, {"smoothing": {"sdt": 0.2}}):
        with pytest.raises(UserError):
            make("critic", "q", **hyper)
    for hyper in ({"loss": "mes"}, {"target": "return"}, {"clip_variant": "min"}, {"expectile": 1.0}):
        with pytest.raises(UserError):
            make("critic", "v", **hyper)


def test_v_regresses_on_returns():
    # (3 - 1)^2 = 4, half 2; gradient -4
    batch, leaf = with_leaf(rows(value_pred=[[1.0]], returns=[[3.0]]), "value_pred")
    loss = make("critic", "v").loss(batch)
    loss.sum().backward()
    assert loss.item() == 4.0 and leaf.grad.item() == -4.0
    assert make("critic", "v", half=True).loss(batch).item() == 2.0


def test_clipped_value_loss_takes_the_larger_error_or_the_clipped_one():
    # old 0, prediction 1, return 2, clip .2: (2 - 1)^2 = 1 and (2 - .2)^2 = 3.24
    batch, leaf = with_leaf(rows(value_pred=[[1.0]], returns=[[2.0]], value=[[0.0]]), "value_pred")
    largest = make("critic", "v", loss="clipped").loss(batch)
    assert_close(largest.item(), 3.24)
    (gradient,) = torch.autograd.grad(largest.sum(), leaf)
    assert gradient.item() == 0.0  # the prediction has already moved further than the range
    # moving away from a return of -2: (-2 - 1)^2 = 9 exceeds (-2 - .2)^2 = 4.84
    away = batch.replace(returns=tensor([[-2.0]]).double())
    assert make("critic", "v", loss="clipped").loss(away).item() == 9.0
    assert_close(make("critic", "v", loss="clipped", clip_variant="plain").loss(away).item(), 4.84)


def test_clipped_value_range_can_be_annealed():
    # at progress .75 the range is .05: (2 - .05)^2 = 3.8025
    batch = rows(value_pred=[[1.0]], returns=[[2.0]], value=[[0.0]], progress=0.75)
    assert_close(make("critic", "v", loss="clipped", anneal=True).loss(batch).item(), 3.8025)


def test_expectile_loss_weighs_underestimates_more():
    # targets min(3, 5) = 3 and min(1, 0) = 0 against 1: u = 2 and -1: .7 * 4 = 2.8 and .3 * 1 = .3
    batch = rows(value_pred=[[1.0, 1.0]], target_q_data=[[[3.0, 1.0]], [[5.0, 0.0]]], mask=tensor([[True, True]]))
    batch, leaf = with_leaf(batch, "value_pred")
    loss = make("critic", "v", loss="expectile", target="q_data").loss(batch)
    assert_close(loss, tensor([[2.8, 0.3]]).double())
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert_close(gradient, tensor([[-2.8, 0.6]]).double())


@given(batches())
def test_expectile_of_one_half_is_half_the_squared_error(batch):
    middle = make("critic", "v", loss="expectile", expectile=0.5).loss(batch)
    assert_close(middle, make("critic", "v", half=True).loss(batch))


def test_soft_value_target_is_a_constant():
    # min(4, 6) - .5 * -2 = 5
    q = tensor([[[4.0]], [[6.0]]], dtype=torch.float64, requires_grad=True)
    logp = tensor([[-2.0]], dtype=torch.float64, requires_grad=True)
    batch = rows(q=q, sample_logp=logp, value_pred=[[1.0]], temperature=tensor(0.5).double(), grad="value_pred")
    critic = make("critic", "v", target="soft_q", half=True)
    assert critic.target(batch).item() == 5.0
    critic.loss(batch).sum().backward()
    assert q.grad is None and logp.grad is None

"""ReCOIL [123]: imitation from an expert and a mixture, by hand."""

import pytest
import torch
from helpers import rows
from torch import nn, tensor
from torch.testing import assert_close

from unirl import make
from unirl.errors import UserError

MIXED = tensor([3, 3, 2])  # two rows of the mixture, one of the expert


def test_a_mixture_state_that_leads_to_itself_is_worth_minus_two_hundred():
    # Q = -2 + .99 V and V = Q: -2 / (1 - .99)
    critic, value = make("critic", "recoil_q", heads=1), tensor([[0.0]]).double()
    for _ in range(3000):
        batch = rows(next_value=value, terminated=[[False]], source=tensor([3]))
        value = critic.target(batch)
    assert_close(value.item(), -200.0, atol=1e-9, rtol=0)


def test_targets_of_the_mixture_of_a_termination_and_of_the_expert():
    batch = rows(next_value=[[10.0], [10.0], [10.0]], terminated=[[False], [True], [False]], source=MIXED)
    # -2 + .99 * 10; -2 + .99 * -200 = -200: the worst value stays what it is; Q_max
    assert_close(make("critic", "recoil_q").target(batch), tensor([[7.9], [-200.0], [200.0]]).double())


def test_both_halves_count_as_means_of_their_own_rows_summed_over_twins():
    heads = [[[7.9 + 1], [-200.0], [198.0]], [[7.9], [-200.0 + 3], [200.0]]]
    q_data = tensor(heads, dtype=torch.float64, requires_grad=True)
    batch = rows(q_data=q_data, next_value=[[10.0]] * 3, terminated=[[False], [True], [False]], source=MIXED)
    loss = make("reduce", "token_mean")(make("critic", "recoil_q").loss(batch), batch)
    # half of: mixture (1 + 9) / 2, expert 4 / 1
    assert_close(loss.item(), 0.5 * (5.0 + 4.0))
    loss.backward()
    # derivative of the mixture's 1/2 (Q - y)^2 mean over two rows; of the expert's over one
    assert_close(q_data.grad[0, :, 0], tensor([0.5, 0.0, -2.0]).double())


def test_values_are_regressed_on_the_mixture_alone():
    batch = rows(value_pred=[[0.0], [0.0], [0.0]], target_q_data=[[[1.0], [2.0], [50.0]]], source=MIXED)
    loss = make("critic", "v", loss="expectile", expectile=0.8, target="q_data", source=3).loss(batch)
    # .8 (1 + 4) / 2
    assert_close(loss.mean().item(), 2.0)
    gumbel = make("critic", "v", loss="gumbel", clip=None, target="q_data", source=3).loss(batch)
    # rescaled by the mixture's largest error, 2, not by the expert's 50
    expected = sum(torch.exp(tensor(u - 2.0).double()) - (u + 1) * torch.exp(tensor(-2.0).double()) for u in (1.0, 2.0))
    assert_close(gumbel.mean().item(), expected.item() / 2)


def test_contrast_lowers_the_mixture_and_raises_the_expert():
    value = nn.Parameter(tensor([[1.0], [3.0], [5.0]]).double())
    loss = make("critic", "contrast").loss(rows(value_pred=value, source=MIXED)).mean()
    assert_close(loss.item(), 2.0 - 5.0)
    loss.backward()
    assert value.grad.flatten().tolist() == [0.5, 0.5, -1.0]


def test_the_best_value_must_lie_above_the_worst():
    with pytest.raises(UserError, match="must lie above q_min"):
        make("critic", "recoil_q", q_max=-300.0)

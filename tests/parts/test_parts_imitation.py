"""Imitation without rewards: IQ-Learn's and SMODICE's parts by hand."""

import math

import pytest
import torch
from helpers import rows
from hypothesis import given
from hypothesis import strategies as st
from strategies import exact
from torch import nn, tensor
from torch.testing import assert_close

from unirl import make
from unirl.errors import UserError
from unirl.reduce.of_source import share_of, share_of_others

ROWS = tensor([0, 2, 2, 0])  # own, expert, expert, own


def imitation(**fields):
    """Two own rows and two of the expert; the policy's action is worth 2, 1, 4, 3, its log-density is -1."""
    made = {
        "q_data": [[[1.0], [5.0], [3.0], [2.0]]],
        "next_q": [[[2.0], [2.0], [0.0], [4.0]]],
        "next_logp": [[-2.0], [-2.0], [0.0], [0.0]],
        "model": {"policy_q": [[[2.0]], [[1.0]], [[4.0]], [[3.0]]], "policy_logp": [[-1.0]] * 4},
        "terminated": [[False], [False], [True], [False]],
        "source": ROWS,
        "temperature": tensor(0.5).double(),
    }
    return rows(**{**made, **fields})


def mean(loss, batch):
    return make("reduce", "token_mean")(loss, batch)


def test_the_next_value_is_soft_and_nothing_after_a_termination():
    # .5 (2 + .5 * 2) = 1.5, the same, 0, .5 * 4 = 2
    target = make("critic", "dual_q", semi=True, heads=1, gamma=0.5).target(imitation())
    assert target.flatten().tolist() == [1.5, 1.5, 0.0, 2.0]


def test_dual_q_by_hand():
    # rewards Q - y: -.5, 3.5, 3, 0. V = 2.5, 1.5, 4.5, 3.5; V - y: 1, 0, 4.5, 1.5, mean 1.75; expert's rewards: 3.25
    # squares .25, 12.25, 9, 0: mean 5.375, times 1 / (4 * .5)
    batch = imitation()
    loss = mean(make("critic", "dual_q", semi=True, heads=1, gamma=0.5).loss(batch), batch)
    assert_close(loss.item(), 1.75 - 3.25 + 5.375 / 2)


def test_where_values_are_lowered_and_what_the_squares_weigh():
    # others: (1 + 1.5) / 2 = 1.25, squares of the others .125, of the expert 10.625; mixture .2
    batch = imitation()
    critic = make(
        "critic", "dual_q", semi=True, heads=1, gamma=0.5, states="others", contrast=0.2, mixture=0.2, chi_square=1.0
    )
    assert_close(mean(critic.loss(batch), batch).item(), 0.2 * (1.25 - 3.25) + (0.2 * 10.625 + 0.8 * 0.125) / 4)
    expert = make("critic", "dual_q", semi=True, heads=1, gamma=0.5, states="expert", mixture=1.0)
    assert_close(mean(expert.loss(batch), batch).item(), 2.25 - 3.25 + 10.625 / 2)
    # start: (1 - .5) times the mean of the expert's V, (1.5 + 4.5) / 2 = 3
    start = make("critic", "dual_q", semi=True, heads=1, gamma=0.5, states="start")
    assert_close(mean(start.loss(batch), batch).item(), 0.5 * 3 - 3.25 + 5.375 / 2)


def test_dual_q_raises_the_expert_and_lowers_the_policy_and_moves_nothing_else():
    q_data = exact([[[1.0], [5.0], [3.0], [2.0]]]).requires_grad_()
    policy_q = exact([[[2.0]], [[1.0]], [[4.0]], [[3.0]]]).requires_grad_()
    policy_logp, next_q = exact([[-1.0]] * 4).requires_grad_(), exact([[[2.0], [2.0], [0.0], [4.0]]]).requires_grad_()
    batch = imitation(q_data=q_data, next_q=next_q, model={"policy_q": policy_q, "policy_logp": policy_logp})
    mean(make("critic", "dual_q", semi=True, heads=1, gamma=0.5).loss(batch), batch).backward()
    # d/dQ: -1/2 for the two expert rows, plus (Q - y) / 4 for all; d/dV: 1/4
    expected = exact([-0.5, 3.5, 3.0, 0.0]) / 4 - exact([0.0, 0.5, 0.5, 0.0])
    assert_close(q_data.grad.flatten(), expected)
    assert policy_q.grad.flatten().tolist() == [0.25] * 4
    assert policy_logp.grad is None and next_q.grad is None


def test_the_paper_s_form_is_the_same_number_with_a_gradient_through_the_next_value():
    following = exact([[[2.0]], [[2.0]], [[0.0]], [[4.0]]]).requires_grad_()
    model = imitation().model
    batch = imitation(
        next_q=None, next_logp=None,
        model={**dict(model), "policy_next_q": following, "policy_next_logp": [[-2.0], [-2.0], [0.0], [0.0]]},
    )  # fmt: skip
    loss = make("critic", "dual_q", heads=1, gamma=0.5).loss(batch)
    assert_close(loss, make("critic", "dual_q", semi=True, heads=1, gamma=0.5).loss(imitation()))
    mean(loss, batch).backward()
    # y = .5 V': d/dy is -1/4 (all) + 1/2 (expert) - (Q - y) / 4 with Q - y = -.5, 3.5, 3, 0; the third is terminated
    expected = 0.5 * (exact([-0.25, 0.25, 0.25, -0.25]) - exact([-0.5, 3.5, 3.0, 0.0]) / 4)
    assert_close(following.grad.flatten(), expected * exact([1.0, 1.0, 0.0, 1.0]))


def test_twins_are_averaged_and_the_smaller_one_is_the_policys_value():
    twice = imitation(
        q_data=[[[1.0], [5.0], [3.0], [2.0]]] * 2,
        next_q=[[[2.0], [2.0], [0.0], [4.0]], [[9.0]] * 4],
        model={"policy_q": [[[2.0, 9.0]], [[1.0, 9.0]], [[4.0, 9.0]], [[3.0, 9.0]]], "policy_logp": [[-1.0]] * 4},
    )
    single = make("critic", "dual_q", semi=True, heads=1, gamma=0.5).loss(imitation())
    assert_close(make("critic", "dual_q", semi=True, gamma=0.5).loss(twice), single)


@given(st.integers(0, 5), st.integers(0, 5))
def test_shares_give_the_mean_over_their_own_rows(own, expert):
    source = tensor([0] * own + [2] * expert)
    values = torch.arange(1.0, own + expert + 1).double()[:, None]
    batch = rows(reward=values, source=source)
    for chosen, share in (
        (source == 2, share_of(batch, 2)),
        (source != 2, share_of_others(batch, 2)),
    ):
        expected = values[chosen].mean().item() if chosen.any() else 0.0
        found = mean(values * share, batch) if len(source) else tensor(0.0)
        assert_close(found.item(), expected)


def test_the_best_classifier_gives_the_logarithm_of_the_ratio():
    # states 0, 1: the expert is in them .75, .25 of its rows, the others .25, .75: log odds log 3 and -log 3
    logits = nn.Parameter(torch.zeros(2).double())
    state, source = tensor([0, 0, 0, 1, 0, 1, 1, 1]), tensor([2] * 4 + [3] * 4)
    critic = make("critic", "expert_discriminator", penalty=0.0)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        batch = rows(model={"expert_logit": logits[state][:, None]}, source=source, reward=[[0.0]] * 8)
        loss = mean(critic.loss(batch), batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_close(logits.detach(), exact([math.log(3), -math.log(3)]), atol=1e-6, rtol=0)
    batch = rows(estimate={"expert_logit": logits.detach()[:, None]}, source=tensor([3, 3]), mask=torch.ones(2, 1) > 0)
    paid = make("reward", "expert_ratio", scale=2.0, clip=1.0)(batch)
    assert paid.reward.flatten().tolist() == [2.0, -2.0]


def test_the_penalty_is_added_to_every_row():
    batch = rows(
        model={"expert_logit": [[0.0], [0.0]], "expert_slope": [[4.0], [9.0]]},
        source=tensor([2, 3]),
        reward=[[0.0]] * 2,
    )
    loss = make("critic", "expert_discriminator", penalty=10.0).loss(batch)
    assert_close(loss, 2 * math.log(2) + exact([[40.0], [90.0]]))


def test_ratios_of_the_dual_have_mean_one_at_smodices_lambda():
    # a ring of three states with log odds 0, 1, 2, gamma .9, lam 1 / (2 - gamma): moving V by a constant changes
    # (1 - lam) - lam (1 - gamma) E[w] = 0
    gamma = 0.9
    lam = 1 / (2 - gamma)
    value = nn.Parameter(torch.zeros(3).double())
    optimizer = torch.optim.LBFGS(
        [value], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )
    terms = [make("critic", "dice", side=side, lam=lam, gamma=gamma, tau=None) for side in ("state", "both")]

    def batch(**more):
        following = value.roll(-1)
        return rows(
            value_pred=value[:, None], next_value_pred=following[:, None], reward=[[0.0], [1.0], [2.0]],
            terminated=[[False]] * 3, value=value.detach()[:, None], next_value=following.detach()[:, None], **more,
        )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        loss = sum(mean(term.loss(batch()), batch()) for term in terms)
        loss.backward()
        return loss

    optimizer.step(closure)
    weight = make("advantage", "dice_ratio", weight="analytic", gamma=gamma, online=True)(batch()).advantage
    assert_close(weight.mean().item(), 1.0, atol=1e-6, rtol=0)


def test_wrong_options_are_one_line():
    for options in ({"states": "mine"}, {"chi_square": 0.0}, {"mixture": 1.5}):
        with pytest.raises(UserError):
            make("critic", "dual_q", **options)
    with pytest.raises(UserError, match="must be positive"):
        make("reward", "expert_ratio", clip=0.0)


@pytest.mark.parametrize(("contrast", "semi", "imitates"), [(1.0, False, True), (1.0, True, True), (0.0, False, False)])
def test_critics_of_a_ring_come_to_prefer_what_the_expert_does(contrast, semi, imitates):
    # five states in a ring, actions left and right; the expert goes right in nine of ten, the others either way
    state = torch.arange(5).repeat_interleave(10).repeat(2)
    action = tensor(([1] * 9 + [0]) * 5 + [0, 1] * 25)
    source = tensor([2] * 50 + [0] * 50)
    following, alpha = (state + 2 * action - 1) % 5, 0.1
    table = nn.Parameter(torch.zeros(5, 2).double())
    critic = make("critic", "dual_q", semi=semi, heads=1, gamma=0.9, contrast=contrast)
    optimizer = torch.optim.Adam([table], lr=0.02)
    for _ in range(300):
        soft = alpha * torch.logsumexp(table / alpha, 1)  # the value of the best soft policy: its logp is in it
        batch = rows(
            q_data=table[state, action][None, :, None],
            next_q=soft[following].detach()[None, :, None],
            next_logp=torch.zeros(100, 1).double(),
            model={
                "policy_q": soft[state][:, None, None],
                "policy_next_q": soft[following][:, None, None],
                "policy_logp": torch.zeros(100, 1).double(),
                "policy_next_logp": torch.zeros(100, 1).double(),
            },
            terminated=torch.zeros(100, 1, dtype=torch.bool),
            source=source,
            temperature=alpha,
        )
        optimizer.zero_grad()
        mean(critic.loss(batch), batch).backward()
        optimizer.step()
    right = (table / alpha).softmax(1)[:, 1]
    assert (right > 0.75).all() if imitates else (right - 0.5).abs().max() < 0.01, right

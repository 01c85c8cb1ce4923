"""Offline baselines without an entry of their own: AWAC's weights, CQL's penalty, ReBRAC's two distances."""

from math import exp, log

import pytest
import torch
from helpers import rows
from hypothesis import given
from strategies import batches, exact
from torch.testing import assert_close

from unirl import make
from unirl.errors import UserError


def test_awac_weighs_by_the_critics_advantage_over_the_policys_own_action():
    # smaller heads: 2 - 1 = 1; at temperature .5 the weight is e^2, cut off at 100 for an advantage of 5
    batch = rows(q_data=[[[2.0, 8.0]], [[3.0, 6.0]]], q=[[[1.5, 1.0]], [[1.0, 2.0]]], logp=[[-1.5, -1.0]], grad="logp")
    values = batch.q_data.clone().requires_grad_()
    own = batch.q.clone().requires_grad_()
    batch = batch.replace(q_data=values, q=own)
    loss = make("objective", "advantage_weighted", advantage="critic", temperature=0.5, max_weight=100.0)(batch)
    assert_close(loss, exact([[1.5 * exp(2.0), 100.0]]))
    gradient, *nothing = torch.autograd.grad(loss.sum(), [batch.logp, values, own], allow_unused=True)
    assert_close(gradient, exact([[-exp(2.0), -100.0]]))
    assert nothing == [None, None]


@given(batches())
def test_awac_is_advantage_weighted_regression_with_that_advantage(batch):
    given_one = batch.replace(advantage=batch.q_data.mean(0) - batch.q.mean(0))
    for normalize in (False, True):
        awac = make("objective", "advantage_weighted", advantage="critic", target="mean", normalize=normalize)
        assert_close(awac(batch), make("objective", "advantage_weighted", normalize=normalize)(given_one))


def candidates(values, densities, recorded, **fields):
    """One state, one head."""
    model = {
        "candidate_q": exact(values)[None, None, :, None],
        "candidate_logp": exact(densities).log()[None, None, :],
        **{name: exact(value)[None, None, :] for name, value in fields.pop("model", {}).items()},
    }
    return rows(model=model, q_data=[[[recorded]]], mask=torch.ones(1, 1).bool(), **fields)


def test_cql_penalty_and_its_gradient():
    # e^Q / mu = 1/.5, 2/.25, 3/.25 = 2, 8, 12: log(22/3) - 1; the soft maximum's slopes are 2, 8, 12 over 22
    batch = candidates([0.0, log(2), log(3)], [0.5, 0.25, 0.25], 1.0)
    values, recorded = batch.model["candidate_q"].clone().requires_grad_(), batch.q_data.clone().requires_grad_()
    loss = make("critic", "conservative").loss(batch.replace(model={"candidate_q": values}, q_data=recorded))
    assert_close(loss.item(), log(22 / 3) - 1, atol=1e-12, rtol=0)
    to_values, to_recorded = torch.autograd.grad(loss.sum(), [values, recorded])
    assert_close(to_values.flatten(), exact([2.0, 8.0, 12.0]) / 22)
    assert to_recorded.item() == -1.0


def test_cql_temperature_sharpens_the_maximum():
    # lambda .5: .5 log((e^0 / .5 + e^(2 log 2) / .25 + e^(2 log 3) / .25) / 3) = .5 log(54/3)
    batch = candidates([0.0, log(2), log(3)], [0.5, 0.25, 0.25], 1.0)
    loss = make("critic", "conservative", temperature=0.5).loss(batch)
    assert_close(loss.item(), 0.5 * log(18) - 1, atol=1e-12, rtol=0)


def test_cql_weight_rises_while_the_penalty_is_above_its_threshold():
    # two heads, both with the penalty log(22/3) - 1 = .9924; alpha = 2, threshold .5: -2 (2 * .9924 - 2 * .5)
    one = candidates([0.0, log(2), log(3)], [0.5, 0.25, 0.25], 1.0)
    values = one.model["candidate_q"].expand(-1, -1, -1, 2).clone().requires_grad_()
    critic = make("critic", "conservative", threshold=0.5)
    critic.load_state_dict({"log_alpha": log(2)})
    (log_alpha,) = critic.parameters()
    loss = critic.loss(one.replace(model={**one.model, "candidate_q": values}, q_data=one.q_data.expand(2, -1, -1)))
    penalty = 2 * (log(22 / 3) - 1)
    assert_close(loss.item(), 2 * penalty, atol=1e-6, rtol=0)
    to_values, to_alpha = torch.autograd.grad(loss.sum(), [values, log_alpha])
    assert_close(to_values[..., 0].flatten(), 2 * exact([2.0, 8.0, 12.0]) / 22)
    assert_close(to_alpha.item(), -2 * (penalty - 2 * 0.5), atol=1e-6, rtol=0)
    assert not make("critic", "conservative").parameters()


def test_calibrated_cql_does_not_push_below_the_return():
    # the return 1 replaces log 2, not log 3 = 1.0986, and not the uniform candidate's 0: 2 + 4 e + 12
    batch = candidates(
        [0.0, log(2), log(3)], [0.5, 0.25, 0.25], 1.0, returns=[[1.0]], model={"candidate_own": [0.0, 1.0, 1.0]}
    )
    values = batch.model["candidate_q"].clone().requires_grad_()
    loss = make("critic", "conservative", calibrated=True).loss(batch.replace(model={"candidate_q": values}))
    assert_close(loss.item(), log((14 + 4 * exp(1)) / 3) - 1, atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    assert gradient.flatten()[1] == 0.0


@given(batches())
def test_over_choices_the_cql_penalty_is_the_cross_entropy_of_a_softmax_critic(batch):
    # all of M choices with density 1/M: log sum e^Q - Q(a), summed over heads
    values = torch.randn(*batch.mask.shape, 4, 2, generator=torch.Generator().manual_seed(len(batch))).double()
    logp = torch.full(values.shape[:-1], -log(4)).double()
    of_choice = batch.replace(
        model={"candidate_q": values, "candidate_logp": logp}, q_data=values[..., 1, :].movedim(-1, 0)
    )
    wanted = -values.log_softmax(-2)[..., 1, :].sum(-1)
    assert_close(make("critic", "conservative").loss(of_choice), wanted)
    shifted = of_choice.replace(model={"candidate_q": values + 7.0}, q_data=of_choice.q_data + 7.0)
    assert_close(make("critic", "conservative").loss(shifted), wanted)


def transition(**changes):
    fields = {
        "reward": [[1.0]],
        "terminated": [[False]],
        "truncated": [[False]],
        "next_q": [[[5.0]], [[4.0]]],
        "next_policy_action": [[[0.5, -0.5]]],
        "next_reference_action": [[[0.1, 0.1]]],
        "q_data": [[[4.0]], [[5.0]]],
    }
    return rows(**(fields | changes))


def test_rebrac_critic_pays_for_leaving_the_data_at_the_next_state():
    # .4^2 + .6^2 = .52: 1 + .99 (4 - .5 * .52); nothing is known beyond a cut, and nothing follows a termination
    critic = make("critic", "behavior_q", penalty=0.5)
    assert_close(critic.target(transition()).item(), 1 + 0.99 * 3.74, atol=1e-12, rtol=0)
    assert_close(critic.target(transition(truncated=[[True]])).item(), 1 + 0.99 * 4, atol=1e-12, rtol=0)
    assert critic.target(transition(terminated=[[True]])).item() == 1.0
    assert critic.requirements().q.layer_norm and critic.requirements().q.target_policy


@given(batches())
def test_rebrac_critic_without_its_penalty_is_that_of_td3(batch):
    actions = batch.policy_action
    both = batch.replace(next_policy_action=actions, next_reference_action=-actions)
    assert_close(make("critic", "behavior_q", penalty=0.0).loss(both), make("critic", "q").loss(both))
    same = batch.replace(next_policy_action=actions, next_reference_action=actions)
    assert_close(make("critic", "behavior_q", penalty=3.0).loss(same), make("critic", "q").loss(same))


def test_rebrac_actor_penalty_is_summed_over_dimensions():
    # (.5 - .1)^2 + (-.5 - .1)^2 = .52, in the mean .26
    batch = rows(policy_action=[[[0.5, -0.5]]], reference_action=[[[0.1, 0.1]]], mask=torch.ones(1, 1).bool())
    assert_close(make("regularizer", "behavior", distance="squared")(batch).item(), 0.52)
    assert_close(make("regularizer", "behavior", distance="mse")(batch).item(), 0.26)


@pytest.mark.parametrize(
    ("kind", "name", "options", "words"),
    [
        ("objective", "advantage_weighted", {"advantage": "critics"}, "did you mean critic"),
        ("critic", "conservative", {"temperature": 0.0}, "temperature 0.0; both must be positive"),
        ("critic", "conservative", {"candidates": 0}, "candidates is 0"),
    ],
)
def test_wrong_options_are_one_clear_line(kind, name, options, words):
    with pytest.raises(UserError, match=words):
        make(kind, name, **options)

"""Objectives per decision: hand-computed values, their gradients, and identities between them."""

from math import e, exp, log

import pytest
import torch
from helpers import rows
from hypothesis import given
from strategies import batches, exact, with_leaf
from torch import tensor
from torch.testing import assert_close

from unirl import make
from unirl.errors import UserError


def grad_of(name, batch, field="logp", **hyper):
    batch, leaf = with_leaf(batch, field)
    (gradient,) = torch.autograd.grad(make("objective", name, **hyper)(batch).sum(), leaf)
    return gradient


def two(ratios=(1.5, 0.5), advantage=(1.0, -1.0)):
    """Two decisions with old log-probabilities 0 and these importance ratios."""
    return rows(logp=exact([ratios]).log(), old_logp=[[0.0, 0.0]], advantage=[list(advantage)])


def test_policy_gradient_by_hand():
    batch = rows(logp=[[-0.5, 2.0]], advantage=[[3.0, -1.0]])
    assert make("objective", "policy_gradient")(batch).tolist() == [[1.5, 2.0]]
    assert grad_of("policy_gradient", batch).tolist() == [[-3.0, 1.0]]


def test_ppo_clip_by_hand():
    # ratios 1.5 and .5; advantage +1 then -1: the first is cut at 1.2, the second at .8
    assert_close(make("objective", "ppo_clip")(two()), tensor([[-1.2, 0.8]]).double())


def test_ppo_clip_has_no_gradient_where_the_clip_is_active():
    assert grad_of("ppo_clip", two()).tolist() == [[0.0, 0.0]]


def test_ppo_clip_keeps_the_gradient_where_the_policy_moved_the_wrong_way():
    # ratio 1.5 with A = -1 and ratio .5 with A = 1: min(r A, clip(r) A) is r A: loss 1.5 and -.5, gradient -r A
    batch = two(advantage=(-1.0, 1.0))
    assert_close(make("objective", "ppo_clip")(batch), tensor([[1.5, -0.5]]).double())
    assert_close(grad_of("ppo_clip", batch), tensor([[1.5, -0.5]]).double())


def test_ppo_clip_range_may_be_asymmetric():
    # upper bound 1.28, lower bound .7
    loss = make("objective", "ppo_clip", clip_low=0.3, clip_high=0.28)(two())
    assert_close(loss, tensor([[-1.28, 0.7]]).double())


def test_dual_clip_bounds_the_loss_of_bad_decisions():
    # ratio 5, A = -2: r |A| = 10 is cut at 3 * 2 = 6 and then has no gradient; ratio 2: 4 stays
    batch = two(ratios=(5.0, 2.0), advantage=(-2.0, -2.0))
    assert_close(make("objective", "ppo_clip", dual_clip=3.0)(batch), tensor([[6.0, 4.0]]).double())
    assert_close(grad_of("ppo_clip", batch, dual_clip=3.0), tensor([[0.0, 4.0]]).double())


def test_dual_clip_must_exceed_one():
    with pytest.raises(UserError, match="dual_clip"):
        make("objective", "ppo_clip", dual_clip=0.5)


@given(batches())
def test_dual_clip_is_inactive_for_positive_advantages(batch):
    batch = batch.replace(advantage=batch.advantage.abs())
    assert_close(make("objective", "ppo_clip", dual_clip=1.5)(batch), make("objective", "ppo_clip")(batch))


@given(batches())
def test_surrogates_equal_the_policy_gradient_on_policy(batch):
    batch = batch.replace(old_logp=batch.logp)
    expected = grad_of("policy_gradient", batch)
    for name in ("ppo_clip", "mdpo", "cispo", "gspo"):
        assert_close(grad_of(name, batch), expected)


@given(batches())
def test_advantages_and_old_log_probabilities_are_constants(batch):
    for name in ("policy_gradient", "ppo_clip", "gspo", "cispo", "mdpo", "advantage_weighted"):
        scored, advantage = with_leaf(batch, "advantage")
        scored, old = with_leaf(scored, "old_logp")
        scored, logp = with_leaf(scored)
        make("objective", name)(scored).sum().backward()
        assert advantage.grad is None and old.grad is None and logp.grad is not None, name


def test_gspo_uses_the_geometric_mean_of_the_ratios_of_a_row():
    # log-ratios .2 and .4 over two decisions (the third is outside the mask): ratio e^.3 = 1.349859 on both
    batch = rows(
        logp=[[0.2, 0.4, 9.0]],
        old_logp=[[0.0] * 3],
        advantage=[[1.0, -2.0, 0.0]],
        mask=tensor([[True, True, False]]),
    )
    loss = make("objective", "gspo", clip_low=0.5, clip_high=0.5)(batch)
    assert_close(loss[:, :2], tensor([[-exp(0.3), 2 * exp(0.3)]]).double())
    gradient = grad_of("gspo", batch, clip_low=0.5, clip_high=0.5)
    assert_close(gradient[:, :2], tensor([[-exp(0.3), 2 * exp(0.3)]]).double())


def test_gspo_clips_the_whole_row():
    batch = rows(logp=[[0.2, 0.4]], old_logp=[[0.0, 0.0]], advantage=[[1.0, 1.0]])
    assert_close(make("objective", "gspo", clip_high=0.2)(batch), tensor([[-1.2, -1.2]]).double())
    assert grad_of("gspo", batch, clip_high=0.2).tolist() == [[0.0, 0.0]]


@given(batches(prefix=True))
def test_gspo_mean_over_a_row_has_the_gradient_of_the_sequence_ratio(batch):
    batch, leaf = with_leaf(batch.replace(advantage=batch.score[:, None].expand_as(batch.mask), weight=None))
    loss = make("reduce", "sequence_mean")(make("objective", "gspo", clip_low=0.3, clip_high=0.3)(batch), batch)
    (per_token,) = torch.autograd.grad(loss, leaf)
    log_ratio = (torch.where(batch.mask, leaf - batch.old_logp, 0).sum(1) / batch.mask.sum(1)).exp()
    surrogate = torch.minimum(log_ratio * batch.score, log_ratio.clamp(0.7, 1.3) * batch.score)
    (per_row,) = torch.autograd.grad(-surrogate.mean(), leaf)
    assert_close(per_token, per_row)


def test_cispo_clips_the_weight_and_keeps_the_gradient():
    # weights min(e^2, 5) = 5 and .5; loss -w A log pi: -5 * 1 * 2 = -10, .5 * log .5
    batch = two(ratios=(exp(2.0), 0.5))
    assert_close(make("objective", "cispo")(batch), tensor([[-10.0, 0.5 * log(0.5)]]).double())
    assert_close(grad_of("cispo", batch), tensor([[-5.0, 0.5]]).double())
    assert_close(grad_of("cispo", batch, clip_low=0.2), tensor([[-5.0, 0.8]]).double())


def test_mdpo_is_the_unclipped_ratio_times_the_advantage():
    assert_close(make("objective", "mdpo")(two()), tensor([[-1.5, 0.5]]).double())
    assert_close(grad_of("mdpo", two()), tensor([[-1.5, 0.5]]).double())


def test_log_likelihood_by_hand():
    batch = rows(logp=[[-0.5, 2.0]])
    assert make("objective", "log_likelihood")(batch).tolist() == [[0.5, -2.0]]
    assert grad_of("log_likelihood", batch).tolist() == [[-1.0, -1.0]]


def test_advantage_weighted_by_hand():
    # temperature 1: weights e and min(e^5, 20) = 20
    batch = rows(logp=[[-1.0, -2.0]], advantage=[[1.0, 5.0]])
    assert_close(make("objective", "advantage_weighted")(batch), tensor([[e, 40.0]]).double())
    assert_close(grad_of("advantage_weighted", batch), tensor([[-e, -20.0]]).double())


def test_advantage_weighted_expresses_iql():
    # exp(3 A) at most 100: A = 1 gives e^3, A = 2 gives 100 (e^6 = 403)
    batch = rows(logp=[[-1.0, -1.0]], advantage=[[1.0, 2.0]])
    iql = make("objective", "advantage_weighted", temperature=1 / 3, max_weight=100.0)
    assert_close(iql(batch), tensor([[exp(3), 100.0]]).double())


def test_advantage_weighted_survives_an_overflowing_exponential():
    batch = rows(logp=[[-1.0]], advantage=[[1e6]])
    assert make("objective", "advantage_weighted")(batch).item() == 20.0


def test_advantage_weighted_can_normalise_its_weights_over_decisions():
    # weights 1 and 3, mean 2: 1/2 and 3/2; the third is no decision
    batch = rows(logp=[[-1.0, -1.0, -1.0]], advantage=[[0.0, log(3), 2.0]], mask=tensor([[True, True, False]]))
    loss = make("objective", "advantage_weighted", normalize=True)(batch)
    assert_close(loss[:, :2], tensor([[0.5, 1.5]]).double())
    with pytest.raises(UserError, match="temperature"):
        make("objective", "advantage_weighted", temperature=0.0)


def test_normalised_weights_without_a_cap_are_awacs_softmax_however_large_advantages_are():
    # times N = 4: softmax of 6, 8, 10, 12 and of the same 1,000 higher
    batch = rows(logp=[[-1.0] * 4], advantage=[[6.0, 8.0, 10.0, 12.0]], mask=tensor([[True] * 4]))
    objective = make("objective", "advantage_weighted", normalize=True, max_weight=None)
    expected = tensor([[0.0085760, 0.0633688, 0.4682357, 3.4598195]]).double()
    assert_close(objective(batch), expected, atol=5e-8, rtol=0)
    assert_close(objective(batch.replace(advantage=batch.advantage + 1000)), expected, atol=5e-8, rtol=0)
    capped = make("objective", "advantage_weighted", normalize=True, max_weight=2.0)(batch)
    assert capped[0, 3].item() == 2.0


def test_advantage_weighted_can_imitate_the_rows_of_one_source():
    batch = rows(logp=[[-1.0], [-1.0]], advantage=[[0.0], [0.0]], mask=tensor([[True], [True]]), source=tensor([2, 3]))
    assert make("objective", "advantage_weighted", source=3)(batch).tolist() == [[0.0], [2.0]]


def test_value_gradient_follows_the_smallest_head():
    q = tensor([[[1.0, 4.0]], [[2.0, 3.0]]], dtype=torch.float64, requires_grad=True)
    loss = make("objective", "value_gradient")(rows(q=q, mask=tensor([[True, True]])))
    assert loss.tolist() == [[-1.0, -3.0]]
    (gradient,) = torch.autograd.grad(loss.sum(), q)
    assert gradient.tolist() == [[[-1.0, 0.0]], [[0.0, -1.0]]]


def test_value_gradient_targets_and_a_single_critic():
    batch = rows(q=[[[1.0, 4.0]], [[2.0, 3.0]]], mask=tensor([[True, True]]))
    first = rows(q_first=[[1.0, 4.0]], mask=tensor([[True, True]]))
    assert make("objective", "value_gradient", target="first")(first).tolist() == [[-1.0, -4.0]]
    assert make("objective", "value_gradient", target="mean")(batch).tolist() == [[-1.5, -3.5]]
    assert make("objective", "value_gradient", scale=2.0)(rows(q=[[3.0]])).tolist() == [[-6.0]]
    with pytest.raises(UserError, match="did you mean mean"):
        make("objective", "value_gradient", target="meen")


def test_value_gradient_normalises_as_td3_bc_does():
    # mean |Q| over decisions = (1 + 3) / 2 = 2, so lambda = 2.5 / 2 = 1.25, a constant for the gradient
    q = tensor([[-1.0, 3.0, 50.0]], dtype=torch.float64, requires_grad=True)
    batch = rows(q_first=q, mask=tensor([[True, True, False]]))
    loss = make("objective", "value_gradient", normalize=True, scale=2.5, target="first")(batch)
    assert loss[:, :2].tolist() == [[1.25, -3.75]]
    (gradient,) = torch.autograd.grad(loss[:, :2].sum(), q)
    assert gradient.tolist() == [[-1.25, -1.25, 0.0]]


@given(batches())
def test_off_policy_mdpo_with_lambda_equal_to_c_is_the_sac_actor_loss(batch):
    c = lam = 0.3
    kl = make("regularizer", "kl", to="ref", estimator="reparameterized")
    entropy = make("regularizer", "entropy", estimator="sample")
    objective = make("objective", "value_gradient")
    mdpo = objective(batch) + (c - lam) * kl(batch) + lam * entropy(batch)
    assert_close(mdpo, 0.3 * batch.sample_logp - batch.q.amin(0))


@given(batches())
def test_off_policy_mdpo_is_its_published_form(batch):
    # c log pi + (lambda - c) log pi_k - Q
    c, lam = 0.7, 0.2
    kl = make("regularizer", "kl", to="ref", estimator="reparameterized")
    entropy = make("regularizer", "entropy", estimator="sample")
    objective = make("objective", "value_gradient", target="first")
    mdpo = objective(batch) + (c - lam) * kl(batch) + lam * entropy(batch)
    anchor = batch.sample_anchor_logp["ref"]
    assert_close(mdpo, c * batch.sample_logp + (lam - c) * anchor - batch.q[0])

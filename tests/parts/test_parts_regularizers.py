"""Penalties: values, gradients, and what the KL estimators estimate."""

from math import exp, inf, log

import pytest
import torch
from helpers import rows
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, exact, with_leaf
from torch import tensor
from torch.testing import assert_close

from unirl import make
from unirl.domain import split_needs
from unirl.errors import UserError
from unirl.regularizers.kl import top_choices_kl

# two categorical policies and the exact divergences between them:
# .5 log(.5/.25) + .5 log(.5/.75) = .1438410362 and .25 log(.25/.5) + .75 log(.75/.5) = .1308120359
POLICY, ANCHOR = (0.5, 0.5), (0.25, 0.75)
FORWARD, BACKWARD = 0.1438410362, 0.1308120359


def grad_of(batch, field="logp", **hyper):
    batch, leaf = with_leaf(batch, field)
    (gradient,) = torch.autograd.grad(make("regularizer", "kl", **hyper)(batch).sum(), leaf)
    return gradient


def over_actions(logits, sampled_from=None, **fields):
    """One row per action, weighted by how often it is sampled, so that a weighted sum is an expectation."""
    logp = logits.log_softmax(0)[:, None]
    weight = logp.detach().exp() if sampled_from is None else exact(sampled_from)[:, None]
    anchor = {"ref": exact(ANCHOR).log()[:, None]}
    return rows(logp=logp, anchor_logp=anchor, weight=weight, mask=torch.ones(2, 1, dtype=torch.bool), **fields)


def expectation(batch, **hyper):
    return (batch.weight * make("regularizer", "kl", **hyper)(batch)).sum()


def kl_gradient(forward=True):
    """Gradient in the logits, at 0, of KL(policy || anchor), or of KL(anchor || policy)."""
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    policy, anchor = logits.log_softmax(0), exact(ANCHOR).log()
    kl = (policy.exp() * (policy - anchor)).sum() if forward else (anchor.exp() * (anchor - policy)).sum()
    return torch.autograd.grad(kl, logits)[0]


def test_kl_estimators_by_hand():
    # d = log 2: k1 .6931, k2 d^2/2 = .2402265, k3 = 1/2 - 1 + d = .1931472; gradients 1, d, 1 - 1/2
    batch = rows(logp=exact([[log(2.0)]]), anchor_logp={"ref": [[0.0]]})
    expected = {"k1": (0.6931471806, 1.0), "k2": (0.2402265070, log(2)), "k3": (0.1931471806, 0.5)}
    for estimator, (value, slope) in expected.items():
        assert_close(make("regularizer", "kl", estimator=estimator)(batch).item(), value, atol=1e-10, rtol=0)
        assert_close(grad_of(batch, estimator=estimator).item(), slope)


@given(batches())
def test_k2_and_k3_are_never_negative(batch):
    for estimator in ("k2", "k3"):
        assert make("regularizer", "kl", estimator=estimator)(batch).min() >= 0


@given(batches())
def test_kl_is_zero_with_zero_gradient_at_the_anchor_except_k1(batch):
    batch = batch.replace(anchor_logp={"ref": batch.logp})
    for estimator in ("k2", "k3"):
        assert make("regularizer", "kl", estimator=estimator)(batch).eq(0).all()
        assert grad_of(batch, estimator=estimator).eq(0).all()
    assert grad_of(batch, estimator="k1").eq(1).all()


def test_k1_and_k3_are_unbiased_for_the_divergence_from_policy_to_anchor():
    batch = over_actions(torch.zeros(2, dtype=torch.float64))
    for estimator in ("k1", "k3"):
        assert_close(expectation(batch, estimator=estimator).item(), FORWARD, atol=1e-10, rtol=0)


def test_expected_gradient_of_k1_is_zero_of_k2_forward_of_k3_backward():
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    expected = {"k1": torch.zeros(2).double(), "k2": kl_gradient(), "k3": kl_gradient(forward=False)}
    for estimator, gradient in expected.items():
        (found,) = torch.autograd.grad(expectation(over_actions(logits), estimator=estimator), logits)
        assert_close(found, gradient)
    assert_close(BACKWARD, 0.25 * log(0.5) + 0.75 * log(1.5), atol=1e-10, rtol=0)
    assert not torch.allclose(kl_gradient(), kl_gradient(forward=False))


def test_weighted_kl_is_unbiased_under_the_old_policy():
    old = (0.8, 0.2)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for estimator in ("k1", "k3"):
        batch = over_actions(logits, sampled_from=old, old_logp=exact(old).log()[:, None])
        value = expectation(batch, estimator=estimator, weighted=True)
        assert_close(value.item(), FORWARD, atol=1e-10, rtol=0)
        assert_close(torch.autograd.grad(value, logits)[0], kl_gradient())


def test_the_anchor_is_a_constant():
    anchor = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    batch = rows(grad="logp", logp=[[1.0]], anchor_logp={"ref": anchor}, old_logp=[[0.0]])
    for hyper in ({"estimator": "k1"}, {"estimator": "k2"}, {"estimator": "k3", "weighted": True}):
        make("regularizer", "kl", **hyper)(batch).sum().backward()
    top = torch.full((1, 1, 2), -2.0, dtype=torch.float64, requires_grad=True)
    batch = rows(grad="top_logp", top_logp=exact([[[-1.0, -2.0]]]), anchor_top_logp={"ref": top}, mask=batch.mask)
    make("regularizer", "kl", estimator="top_k")(batch).sum().backward()
    assert anchor.grad is None and top.grad is None


def test_exact_kl_is_what_the_domain_computed():
    batch = rows(anchor_kl={"prev": [[0.25, 0.5]]}, mask=tensor([[True, True]]))
    assert make("regularizer", "kl", to="prev", estimator="exact")(batch).tolist() == [[0.25, 0.5]]


def test_top_k_kl_by_hand():
    # choice 0 of (.5, .25, .25) and (.25, .25, .5), the others as one: FORWARD, or turned round BACKWARD. Its slope is
    # p (log p/q + 1) - p (log rest/rest + 1) = .5 (log 2 - log(2/3)) = .5 log 3
    fields = {"anchor_top_logp": {"ref": exact([[[log(0.25)]]])}, "mask": tensor([[True]])}
    batch, leaf = with_leaf(rows(top_logp=exact([[[log(0.5)]]]), **fields), "top_logp")
    penalty = make("regularizer", "kl", estimator="top_k")(batch)
    penalty.sum().backward()
    assert_close(penalty.item(), FORWARD, atol=1e-10, rtol=0)
    assert_close(leaf.grad.item(), 0.5 * log(3.0))
    turned = make("regularizer", "kl", estimator="top_k", from_anchor=True)(batch)
    assert_close(turned.item(), BACKWARD, atol=1e-10, rtol=0)


logits_of_policies = st.tuples(st.integers(1, 9), st.integers(1, 12), st.floats(0.1, 30.0), st.integers(0, 2**31))


@given(logits_of_policies)
def test_top_k_kl_is_at_most_the_exact_kl_and_equal_to_it_over_all_choices(drawn):
    size, choices, scale, seed = drawn
    generator = torch.Generator().manual_seed(seed)
    logits, others = scale * torch.randn(2, 40, size, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    log_p, log_q = logits.log_softmax(-1), others.log_softmax(-1)
    exactly = (log_p.exp() * (log_p - log_q)).sum(-1)
    top = log_p.topk(min(choices, size)).indices
    found = top_choices_kl(log_p.gather(-1, top), log_q.gather(-1, top))
    assert (found <= exactly + 1e-6).all() and (found >= -1e-6).all()
    if choices >= size:
        assert_close(found, exactly, atol=1e-6, rtol=1e-9)
        gradients = [torch.autograd.grad(kl.sum(), logits, retain_graph=True)[0] for kl in (found, exactly)]
        assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-9)


@given(logits_of_policies)
def test_top_k_kl_is_finite_in_single_precision_with_its_gradient(drawn):
    size, choices, scale, seed = drawn
    logits, others = scale * torch.randn(2, 40, size, generator=torch.Generator().manual_seed(seed))
    logits.requires_grad_()
    top = logits.topk(min(choices, size)).indices
    found = top_choices_kl(logits.log_softmax(-1).gather(-1, top), others.log_softmax(-1).gather(-1, top))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert found.isfinite().all() and gradient.isfinite().all() and (found > -1e-5).all()


def test_top_k_kl_passes_over_choices_that_the_policy_cannot_make():
    # as by hand, beside a choice that the policy cannot make, and the anchor can (its rest is then 1/2) or cannot (3/4)
    for other in (log(0.25), -inf):
        fields = {"anchor_top_logp": {"ref": exact([[[log(0.25), other]]])}, "mask": tensor([[True]])}
        batch, leaf = with_leaf(rows(top_logp=exact([[[log(0.5), -inf]]]), **fields), "top_logp")
        penalty = make("regularizer", "kl", estimator="top_k")(batch)
        penalty.sum().backward()
        rest = 0.5 if other > -inf else 0.75
        assert_close(penalty.item(), 0.5 * log(2.0) + 0.5 * log(0.5 / rest))
        assert leaf.grad[0, 0, 1] == 0 and leaf.grad[0, 0, 0].isfinite()
    fields["anchor_top_logp"] = {"ref": exact([[[-inf, -inf]]])}
    batch = rows(top_logp=exact([[[log(0.5), -inf]]]), **fields)
    assert make("regularizer", "kl", estimator="top_k")(batch).item() == inf  # p where q has nothing


def test_top_k_kl_reads_as_many_choices_as_it_asked_for():
    few, many = (make("regularizer", "kl", estimator="top_k", choices=n) for n in (1, 2))
    assert few.requirements().and_also(many.requirements()).top_choices == 2
    assert make("regularizer", "kl").requirements().top_choices == 0
    logp, anchor = exact([[[log(0.5), log(0.3)]]]), exact([[[log(0.25), log(0.6)]]])
    batch = rows(top_logp=logp, anchor_top_logp={"ref": anchor}, mask=tensor([[True]]))
    first = batch.replace(top_logp=logp[..., :1], anchor_top_logp={"ref": anchor[..., :1]})
    assert few(batch).item() == few(first).item() != many(batch).item()


def test_top_k_kl_outside_the_mask_is_zero():
    # a domain leaves zeros there, as if every choice had probability 1
    zeros = torch.zeros(1, 2, 4)
    batch = rows(top_logp=zeros, anchor_top_logp={"ref": zeros}, mask=tensor([[False, False]]))
    assert make("regularizer", "kl", estimator="top_k")(batch).tolist() == [[0.0, 0.0]]


def test_top_k_kl_refuses_other_numbers_of_choices():
    for choices in (0, -3, 2.5, True, "many"):
        with pytest.raises(UserError, match="choices is"):
            make("regularizer", "kl", estimator="top_k", choices=choices)


def test_top_choices_are_fixed_before_what_is_said_of_them():
    detached, differentiable = split_needs(make("regularizer", "kl", estimator="top_k").reads)
    assert detached == {"top_token", "anchor_top_logp.ref"} and differentiable == {"top_logp"}
    assert split_needs(["logp", "anchor_logp.ref"]) == ({"anchor_logp.ref"}, {"logp"})


def test_reparameterized_kl_is_differentiable_through_the_action_in_both_terms():
    # a = mu + sigma eps under N(mu, sigma) and the anchor N(0, 1): the mean over eps = +-1 of
    # [-log sigma - eps^2 / 2] - [-a^2 / 2] is, with mu = 1, sigma = 2: -log 2 - 1/2 + (9 + 1) / 4
    mu, log_sigma = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, log(2.0)))
    noise = tensor([[1.0], [-1.0]]).double()
    action = mu + log_sigma.exp() * noise
    normal = torch.distributions.Normal
    batch = rows(
        sample_logp=normal(mu, log_sigma.exp()).log_prob(action),
        sample_anchor_logp={"prev": normal(0.0, 1.0).log_prob(action)},
    )
    kl = make("regularizer", "kl", to="prev", estimator="reparameterized")(batch).mean()
    assert_close(kl.item(), 2.0 - log(2.0))
    kl.backward()
    # closed form with E eps^2 = 1: -log sigma + (sigma^2 + mu^2) / 2 - 1/2: gradients mu = 1 and sigma^2 - 1 = 3
    assert_close(mu.grad.item(), 1.0)
    assert_close(log_sigma.grad.item(), 3.0)


def test_kl_refuses_what_it_cannot_estimate():
    with pytest.raises(UserError, match="did you mean"):
        make("regularizer", "kl", estimator="k4")
    with pytest.raises(UserError, match="weighted"):
        make("regularizer", "kl", estimator="exact", weighted=True)


def test_tsallis_of_index_two_is_the_difference_of_densities():
    # .5 - .2 = .3; index 1.5: 2 (sqrt .5 - sqrt .2) = .5197863714; gradient in log pi: x and sqrt x
    batch = rows(sample_logp=exact([[0.5]]).log(), sample_anchor_logp={"prev": exact([[0.2]]).log()})
    for index, value, slope in ((2.0, 0.3, 0.5), (1.5, 0.5197863714, 0.5**0.5)):
        scored, leaf = with_leaf(batch, "sample_logp")
        penalty = make("regularizer", "tsallis", index=index)(scored)
        penalty.sum().backward()
        assert_close(penalty.item(), value, atol=1e-10, rtol=0)
        assert_close(leaf.grad.item(), slope)


@given(batches())
def test_tsallis_tends_to_the_kl_terms_as_its_index_tends_to_one(batch):
    kl = make("regularizer", "kl", estimator="reparameterized")(batch)
    assert torch.equal(make("regularizer", "tsallis", to="ref", index=1.0)(batch), kl)
    assert_close(make("regularizer", "tsallis", to="ref", index=1 + 1e-7)(batch), kl, atol=1e-5, rtol=1e-5)
    sampled = make("regularizer", "tsallis", to="ref", index=1.0, estimator="sample")(batch)
    assert torch.equal(sampled, make("regularizer", "kl", estimator="k1")(batch))
    entropy = make("regularizer", "entropy", estimator="sample")(batch)
    assert torch.equal(make("regularizer", "tsallis", to=None, index=1.0)(batch), entropy)


def test_tsallis_refuses_an_index_outside_its_range():
    with pytest.raises(UserError, match="index"):
        make("regularizer", "tsallis", index=0.0)
    with pytest.raises(UserError, match="estimator"):
        make("regularizer", "tsallis", estimator="k1")


def test_entropy_is_a_penalty_on_order():
    batch = rows(entropy=[[1.5, -0.5]], sample_logp=[[0.25, 2.0]])
    assert make("regularizer", "entropy")(batch).tolist() == [[-1.5, 0.5]]
    assert make("regularizer", "entropy", estimator="sample")(batch).tolist() == [[0.25, 2.0]]
    batch, leaf = with_leaf(batch, "entropy")
    make("regularizer", "entropy")(batch).sum().backward()
    assert leaf.grad.tolist() == [[-1.0, -1.0]]


def test_entropy_refuses_an_unknown_estimator():
    with pytest.raises(UserError, match="did you mean sample"):
        make("regularizer", "entropy", estimator="sampled")


def test_behavior_mse_is_the_mean_over_action_dimensions():
    # ((1 - 0)^2 + (3 - 1)^2) / 2 = 2.5, gradient 2 (1, 2) / 2
    reference = tensor([[[0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    batch = rows(policy_action=[[[1.0, 3.0]]], reference_action=reference, mask=tensor([[True]]))
    batch, leaf = with_leaf(batch, "policy_action")
    penalty = make("regularizer", "behavior")(batch)
    penalty.sum().backward()
    assert penalty.tolist() == [[2.5]]
    assert leaf.grad.tolist() == [[[1.0, 2.0]]] and reference.grad is None


def test_behavior_log_likelihood():
    batch = rows(logp=[[-2.0, 1.0]])
    assert make("regularizer", "behavior", distance="log_likelihood")(batch).tolist() == [[2.0, -1.0]]
    with pytest.raises(UserError, match="distance"):
        make("regularizer", "behavior", distance="mae")


def test_fixed_and_linear_coefficients():
    assert make("coefficient", "fixed", value=0.04).value(0.7) == 0.04
    linear = make("coefficient", "linear", start=1.0, end=0.0)
    assert [linear.value(p) for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]


def test_fixed_coefficients_neither_learn_nor_remember():
    fixed = make("coefficient", "fixed", value=0.5)
    assert fixed.parameters() == [] and fixed.state_dict() == {} and fixed.reads == ()
    assert fixed.loss(rows(logp=[[1.0]])) is None


def test_coefficients_refuse_options_that_do_not_exist():
    for name, hyper in (
        ("mirror", {"variant": "code"}),
        ("auto", {"initial": 0.0}),
        ("auto", {"estimator": "k1"}),
        ("auto", {"variant": "code"}),
    ):
        with pytest.raises(UserError):
            make("coefficient", name, **hyper)


def test_mirror_coefficient_is_one_over_a_step_size_that_falls_to_its_floor():
    # t = 1 - progress: 1/1, 1/.5; at the end 1/.01
    mirror = make("coefficient", "mirror")
    assert [mirror.value(p) for p in (0.0, 0.5)] == [1.0, 2.0]
    assert_close(mirror.value(1.0), 100.0)
    assert make("coefficient", "mirror", initial=0.5, final=0.1).value(0.0) == 2.0
    with pytest.raises(UserError, match="positive"):
        make("coefficient", "mirror", final=0.0)


def test_released_mirror_coefficient_starts_one_iteration_earlier():
    # K = 4: t = 1 + 1/4 first, 1 - 2/4 last (k = 3)
    mirror = make("coefficient", "mirror", variant="released", iterations=4)
    assert_close([mirror.value(k / 4) for k in (0, 3)], [0.8, 2.0])
    with pytest.raises(UserError, match="iterations"):
        make("coefficient", "mirror", variant="released")


def test_auto_temperature_needs_a_target():
    auto = make("coefficient", "auto")
    batch = rows(sample_logp=[[1.0]])
    with pytest.raises(UserError, match="target"):
        auto.loss(batch)
    auto.bind(-2.0)
    auto.loss(batch)
    chosen = make("coefficient", "auto", target=-7.0)
    chosen.bind(-2.0)
    assert chosen.target == -7.0


def test_auto_temperature_moves_towards_the_entropy_target():
    # entropy -log pi = 1 below the target 3: alpha must rise, so the loss falls as log alpha grows: slope 1 - 3
    auto = make("coefficient", "auto", target=3.0, initial=0.5)
    scored, logp = with_leaf(rows(sample_logp=[[-1.0, 50.0]], mask=tensor([[True, False]])), "sample_logp")
    make("reduce", "token_mean")(auto.loss(scored), scored).backward()
    assert auto.parameters()[0].grad.item() == -2.0 and logp.grad is None
    assert_close(auto.value(0.0).item(), 0.5)
    assert not auto.value(0.0).requires_grad


def test_auto_temperature_can_read_an_exact_entropy():
    auto = make("coefficient", "auto", target=3.0, initial=exp(1.0), estimator="exact")
    assert auto.reads == ("entropy",)
    assert_close(auto.loss(rows(entropy=[[1.0]])).item(), -2.0)


def test_auto_temperature_continues_from_its_state():
    auto, other = make("coefficient", "auto", initial=0.3), make("coefficient", "auto")
    other.load_state_dict(auto.state_dict())
    assert torch.equal(other.value(0.0), auto.value(0.0))


def test_adaptive_kl_is_a_proportional_controller():
    # KL per row = 1 + 2 = 3 nats (an anchor at log-ratio 1 and 2), target 2: error .5, clipped to .2
    batch = rows(logp=[[1.0, 2.0]] * 5, anchor_logp={"ref": [[0.0, 0.0]] * 5})
    adaptive = make("coefficient", "adaptive_kl", target=2.0, initial=1.0, horizon=10.0, to="ref")
    adaptive.update(batch)
    assert_close(adaptive.value(0.0), 1 + 0.2 * 5 / 10)
    # target 3.1: error 3/3.1 - 1 = -.0322580645
    gentle = make("coefficient", "adaptive_kl", target=3.1, initial=1.0, horizon=10.0, to="ref")
    gentle.update(batch)
    assert_close(gentle.value(0.0), 1 - 0.0322580645 / 2, atol=1e-9, rtol=0)


def test_adaptive_kl_measures_from_the_old_policy_by_default():
    # d = log pi - log old = log 2: e^d - 1 - d = 1 - log 2 = .3068528194 against a target of .3: error .0228427314
    batch = rows(logp=exact([[log(2.0)]]), old_logp=[[0.0]])
    adaptive = make("coefficient", "adaptive_kl", target=0.3, initial=1.0, horizon=1.0)
    assert adaptive.reads == ("logp", "old_logp")
    adaptive.update(batch)
    assert_close(adaptive.value(0.0), 1.0228427314, atol=1e-9, rtol=0)
    other = make("coefficient", "adaptive_kl")
    other.load_state_dict(adaptive.state_dict())
    assert other.value(0.0) == adaptive.value(0.0)


def test_adaptive_kl_refuses_a_target_of_zero():
    with pytest.raises(UserError, match="target"):
        make("coefficient", "adaptive_kl", target=0.0)

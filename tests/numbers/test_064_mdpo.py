"""Mirror descent policy optimisation [64]: the catalogue's numbers, by optimising the parts to convergence."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import rows
from torch import Tensor, tensor
from torch.distributions import Normal
from torch.testing import assert_close

from unirl import Batch, make
from unirl.errors import UserError


def exact(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


OLD, ADVANTAGE = exact([0.5, 0.3, 0.2]), exact([1.0, 0.0, -1.0])
BEST = exact([0.784399, 0.173139, 0.042463])  # old * exp(A), normalised
BEST_VALUE = 0.5496905827600  # log sum_a old e^A
TOTAL = make("reduce", "sequence_sum")


def minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def on_policy(logp: Tensor, ref: Tensor | None = None) -> Batch:
    """One row per action, weighted by the old policy's probability: reductions with divisor 1 are expectations."""
    anchors = {"prev": OLD.log()} if ref is None else {"prev": OLD.log(), "ref": ref.log()}
    divergences = {name: (logp.exp() * (logp - anchor)).sum().expand(3, 1) for name, anchor in anchors.items()}
    return rows(
        logp=logp[:, None],
        old_logp=OLD.log()[:, None],
        advantage=ADVANTAGE[:, None],
        anchor_kl=divergences,
        weight=OLD[:, None],
        divisor=exact(1.0),
        mask=torch.ones(3, 1, dtype=torch.bool),
    )


def on_policy_loss(logp: Tensor, strength: float) -> Tensor:
    batch = on_policy(logp)
    kl = make("regularizer", "kl", to="prev", estimator="exact")
    return TOTAL(make("objective", "mdpo")(batch) + strength * kl(batch), batch)


def test_surrogate_kl_and_objective_of_a_candidate():
    batch = on_policy(exact([0.6, 0.25, 0.15]).log())
    assert_close(-TOTAL(make("objective", "mdpo")(batch), batch).item(), 0.45)
    kl = make("regularizer", "kl", to="prev", estimator="exact")(batch)
    assert_close(TOTAL(kl, batch).item(), 0.0206602340, atol=5e-11, rtol=0)
    assert_close(-on_policy_loss(batch.logp[:, 0], 1 / 0.5).item(), 0.40867954, atol=1e-8, rtol=0)


def test_converges_to_the_exact_mirror_step():
    logits = OLD.log().clone().requires_grad_()
    minimise(lambda: on_policy_loss(logits.log_softmax(0), 1.0), [logits])
    assert_close(logits.softmax(0).detach(), BEST, atol=6e-7, rtol=0)
    assert_close(-on_policy_loss(logits.log_softmax(0), 1.0).item(), BEST_VALUE, atol=1e-12, rtol=0)


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_the_mirror_coefficient_scales_the_step(progress):
    # pi_k exp(t A) with t = 1 - progress
    logits = OLD.log().clone().requires_grad_()
    strength = make("coefficient", "mirror").value(progress)
    minimise(lambda: on_policy_loss(logits.log_softmax(0), strength), [logits])
    expected = (OLD.log() + (1 - progress) * ADVANTAGE).softmax(0)
    assert_close(logits.softmax(0).detach(), expected, atol=1e-8, rtol=0)


def test_two_references_give_their_geometric_mixture():
    # weights w1 = .6 on the old policy and w2 = .9 on a second one
    ref, (w1, w2) = exact([0.2, 0.2, 0.6]), (0.6, 0.9)
    logits = OLD.log().clone().requires_grad_()

    def loss() -> Tensor:
        batch = on_policy(logits.log_softmax(0), ref)
        prev, other = (make("regularizer", "kl", to=to, estimator="exact")(batch) for to in ("prev", "ref"))
        return TOTAL(make("objective", "mdpo")(batch) + w1 * prev + w2 * other, batch)

    minimise(loss, [logits])
    expected = ((w1 * OLD.log() + w2 * ref.log() + ADVANTAGE) / (w1 + w2)).softmax(0)
    assert_close(logits.softmax(0).detach(), expected, atol=1e-8, rtol=0)


def test_sampled_kl_with_importance_ratios_has_the_same_optimum():
    logits = OLD.log().clone().requires_grad_()
    kl = make("regularizer", "kl", to="prev", estimator="k3", weighted=True)

    def loss() -> Tensor:
        batch = on_policy(logits.log_softmax(0)).replace(anchor_logp={"prev": OLD.log()[:, None]})
        return TOTAL(make("objective", "mdpo")(batch) + kl(batch), batch)

    minimise(loss, [logits])
    assert_close(logits.softmax(0).detach(), BEST, atol=6e-7, rtol=0)


def test_first_gradient_is_the_policy_gradient_whatever_the_coefficient():
    logits = OLD.log().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(on_policy_loss(logits.log_softmax(0), 7.0), logits)
    # -E[A grad log pi]: for a softmax -pi (A - E A), E A = .5 - .2 = .3
    assert_close(gradient, -OLD * (ADVANTAGE - 0.3))


NODES, WEIGHTS = (exact(v.tolist()) for v in np.polynomial.hermite_e.hermegauss(40))


def gaussian_loss(mean: Tensor, log_std: Tensor, c: float, lam: float) -> Tensor:
    """The off-policy loss for Q = -(a - 1)^2 and pi_k = N(0, 1), the expectation over the noise by quadrature."""
    action = mean + log_std.exp() * NODES
    batch = rows(
        q=-(action - 1).square()[:, None],
        sample_logp=Normal(mean, log_std.exp()).log_prob(action)[:, None],
        sample_anchor_logp={"prev": Normal(0.0, 1.0).log_prob(action)[:, None]},
        weight=(WEIGHTS / WEIGHTS.sum())[:, None],
        divisor=exact(1.0),
    )
    kl = make("regularizer", "kl", to="prev", estimator="reparameterized")
    entropy = make("regularizer", "entropy", estimator="sample")
    loss = make("objective", "value_gradient")(batch) + (c - lam) * kl(batch) + lam * entropy(batch)
    return TOTAL(loss, batch)


@pytest.mark.parametrize(
    ("lam", "mean", "variance"),
    [(0.0, 2 / 3, 1 / 3), (0.2, 0.7142857, 0.3571429), (1.0, 1.0, 0.5)],  # the last is SAC
)
def test_off_policy_optimum_of_a_gaussian(lam, mean, variance):
    mu, log_std = exact(0.0).requires_grad_(), exact(0.0).requires_grad_()
    minimise(lambda: gaussian_loss(mu, log_std, 1.0, lam), [mu, log_std])
    assert_close(mu.item(), mean, atol=6e-8, rtol=0)
    assert_close((2 * log_std).exp().item(), variance, atol=6e-8, rtol=0)


def test_off_policy_loss_with_lambda_c_is_the_sac_actor_loss():
    mu, log_std = exact(0.3), exact(-0.2)
    action = mu + log_std.exp() * NODES
    sac = (WEIGHTS / WEIGHTS.sum() * (Normal(mu, log_std.exp()).log_prob(action) + (action - 1).square())).sum()
    assert_close(gaussian_loss(mu, log_std, 1.0, 1.0), sac)


def test_step_size_of_the_paper_and_of_the_released_code():
    # K = 10: the paper has t = 1 - k/K, the code 1 - (k - 1)/K with k from 0: 1 + 1/K first
    paper = make("coefficient", "mirror")
    released = make("coefficient", "mirror", variant="released", iterations=10)
    for k in range(10):
        assert_close(1 / paper.value(k / 10), 1 - k / 10)
        assert_close(1 / released.value(k / 10), 1 - (k - 1) / 10)
    assert math.isfinite(paper.value(1.0))


def test_off_policy_critics():
    # Q: r + gamma (1 - d) V_targ; V: min(Q1, Q2) - lambda log pi, both with half the squared error
    q = make("critic", "q", bootstrap="target_value", half=True)
    transition = rows(reward=[[1.0]], terminated=[[False]], next_target_value=[[2.0]], q_data=[[[1.0]], [[3.0]]])
    assert q.requirements().value.tau == q.tau == 0.005
    assert_close(q.loss(transition).item(), 0.5 * (1.98**2 + 0.02**2))  # y = 2.98
    v = make("critic", "v", target="soft_q", half=True)
    state = rows(q=[[[4.0]], [[3.0]]], sample_logp=[[-1.0]], value_pred=[[1.0]], temperature=exact(0.2))
    assert_close(v.target(state).item(), 3.2)
    assert_close(v.loss(state).item(), 0.5 * 2.2**2)


def test_value_target_has_one_number_per_decision():
    # the released code broadcasts [B] log-probabilities against [B, 1] critics into [B, B]
    state = rows(q=torch.zeros(2, 5, 1), sample_logp=torch.zeros(5, 1), temperature=tensor(0.2))
    assert make("critic", "v", target="soft_q").target(state).shape == (5, 1)


def test_value_target_with_the_divergence_of_the_policy_from_its_last_version():
    # 3 - .2 (-1) - .8 (-1 - (-1.5)) = 2.8
    v = make("critic", "v", target="soft_q", proximal={"prev": 0.8})
    state = rows(
        q=[[[4.0]], [[3.0]]],
        sample_logp=[[-1.0]],
        sample_anchor_logp={"prev": [[-1.5]]},
        temperature=exact(0.2),
    )
    assert_close(v.target(state).item(), 2.8)
    assert "sample_anchor_logp.prev" in v.reads
    with pytest.raises(UserError, match="proximal belongs to target=soft_q"):
        make("critic", "v", target="returns", proximal={"prev": 0.8})


def test_the_sampled_tsallis_term_on_policy_has_its_closed_form_optimum():
    # index 2, weight 4: minimise -pi.A + 4 pi.(pi - old), so pi = (A + 4 old - nu) / 8 = (3, 1.2, -.2) / 8 + 1/6
    logits = OLD.log().clone().requires_grad_()
    tsallis = make("regularizer", "tsallis", to="prev", index=2.0, estimator="sample", weighted=True)

    def loss() -> Tensor:
        batch = on_policy(logits.log_softmax(0)).replace(anchor_logp={"prev": OLD.log()[:, None]})
        return TOTAL(make("objective", "mdpo")(batch) + 4 * tsallis(batch), batch)

    minimise(loss, [logits])
    assert_close(logits.softmax(0).detach(), exact([0.375, 0.15, -0.025]) + 1 / 6, atol=1e-8, rtol=0)


def test_the_sampled_tsallis_term_tends_to_the_mirror_step():
    logits = OLD.log().clone().requires_grad_()
    tsallis = make("regularizer", "tsallis", to="prev", index=1.0, estimator="sample", weighted=True)

    def loss() -> Tensor:
        batch = on_policy(logits.log_softmax(0)).replace(anchor_logp={"prev": OLD.log()[:, None]})
        return TOTAL(make("objective", "mdpo")(batch) + tsallis(batch), batch)

    minimise(loss, [logits])
    assert_close(logits.softmax(0).detach(), BEST, atol=6e-7, rtol=0)


def test_q_logarithms_of_the_paper_and_of_the_released_code():
    # densities (.5, .4) of two dimensions under the policy, (.2, .1) under the anchor; log_q x = (x^(q-1) - 1) / (q-1)
    # at index 1.5. Paper: of the products .2 and .02: 2 (.4472136 - .1414214) = .6115844. Released: per dimension,
    # own 2 (.7071068 + .6324555 - 2) = -1.3208754, anchor 2 (.4472136 + .3162278 - 2) = -2.4731173; -1.3208754 + 1.5 *
    # 2.4731173 = 2.3888005
    own, anchor = exact([[[0.5, 0.4]]]).log(), exact([[[0.2, 0.1]]]).log()
    batch = rows(
        sample_logp=own.sum(-1),
        sample_anchor_logp={"prev": anchor.sum(-1)},
        sample_logp_parts=own,
        sample_anchor_logp_parts={"prev": anchor},
        mask=torch.ones(1, 1, dtype=torch.bool),
    )
    for variant, expected in (("paper", 0.6115844), ("released", 2.3888005)):
        penalty = make("regularizer", "tsallis", index=1.5, variant=variant)(batch)
        assert_close(penalty.item(), expected, atol=2e-7, rtol=0)


def test_the_released_density_has_a_floor_without_a_gradient():
    # log 1e-6 = -13.8155106 in one of two dimensions, at index 1 too; the gradient of the other is 1
    own = exact([[[-20.0, -1.0]]]).requires_grad_()
    batch = rows(sample_logp_parts=own, mask=torch.ones(1, 1, dtype=torch.bool))
    penalty = make("regularizer", "tsallis", to=None, index=1.0, variant="released")(batch)
    penalty.sum().backward()
    assert_close(penalty.item(), -14.8155106, atol=6e-8, rtol=0)
    assert own.grad.tolist() == [[[0.0, 1.0]]]


def test_a_soft_value_is_regressed_on_the_same_entropy_that_the_policy_is_paid():
    # Q 2 (the smaller), log pi -1, temperature .2: at index 1 the target is 2.2, at index 1.5 the q-logarithm is
    # 2 (e^-.5 - 1) = -.7869387 and the target 2.1573877; as released, of two dimensions -.4 and -.6: -.8809021
    batch = rows(
        q=exact([[[2.0]], [[3.0]]]),
        sample_logp=exact([[-1.0]]),
        sample_logp_parts=exact([[[-0.4, -0.6]]]),
        temperature=exact(0.2),
        mask=torch.ones(1, 1, dtype=torch.bool),
    )

    def target(**tsallis):
        return make("critic", "v", target="soft_q", tsallis=tsallis).target(batch).item()

    assert_close(make("critic", "v", target="soft_q").target(batch).item(), 2.2)
    assert_close(target(index=1.0), 2.2)
    assert_close(target(index=1.5), 2.1573877, atol=1e-7, rtol=0)
    assert_close(target(index=1.5, variant="released"), 2.1761804, atol=1e-7, rtol=0)
    with pytest.raises(UserError, match="tsallis belongs to target=soft_q"):
        make("critic", "v", tsallis={"index": 1.5})


def test_the_tsallis_entropy_sets_the_temperature_of_soft_values():
    assert make("regularizer", "tsallis", to=None).sets_temperature
    assert not make("regularizer", "tsallis", to="prev").sets_temperature


def test_a_q_logarithm_of_fresh_decisions_needs_densities():
    assert make("regularizer", "tsallis", index=2.0).requirements().densities
    for options in ({"index": 1.0}, {"estimator": "sample"}, {"variant": "released"}):
        assert not make("regularizer", "tsallis", **options).requirements().densities


def test_densities_of_the_dimensions_multiply_to_the_density():
    from unirl.control.distributions import Gaussian, TanhGaussian

    generator = torch.Generator().manual_seed(0)
    mean, log_std = 0.3 * torch.randn(2, 5, 3, generator=generator)
    for policy in (Gaussian(mean, log_std), TanhGaussian(mean, log_std)):
        action, logp, raw = policy.rsample(generator)
        assert_close(policy.log_prob_parts(action, raw).sum(-1), logp)
    assert_close(policy.log_prob_parts(action), policy.log_prob_parts(action, raw), atol=1e-3, rtol=1e-3)


def test_tsallis_options_that_exclude_each_other():
    with pytest.raises(UserError, match="variant=released"):
        make("regularizer", "tsallis", estimator="sample", variant="released")
    with pytest.raises(UserError, match="weighted=true"):
        make("regularizer", "tsallis", weighted=True)

"""Probabilistic mixture of experts [69]: the catalogue's numbers, and SAC as the case of one expert."""

import math

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.control.distributions import TanhGaussian
from unirl.control.mixture import TanhGaussianMixture
from unirl.errors import UserError

MASK = torch.ones(1, 1, dtype=torch.bool)


def exact(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_router_loss_and_its_gradient():
    # w = (.7, .3), Q = (1, 2), the smaller of two critics each: v = (0, 1), .49 + .49, gradient 2 (w - v)
    weights = exact([[[0.7, 0.3]]]).requires_grad_()
    values = exact([[[[1.0, 5.0], [2.0, 2.5]]]]).requires_grad_()
    batch = rows(router=weights, expert_q=values, mask=MASK)
    penalty = make("regularizer", "router_frequency")(batch)
    penalty.sum().backward()
    assert_close(penalty.item(), 0.98)
    assert_close(weights.grad, exact([[[1.4, -1.4]]]))
    assert values.grad is None
    assert_close(make("regularizer", "router_frequency", variant="released")(batch).item(), 0.49)


def test_the_first_of_equally_good_experts_counts():
    batch = rows(router=exact([[[0.5, 0.3, 0.2]]]), expert_q=exact([[[[1.0], [2.0], [2.0]]]]), mask=MASK)
    assert_close(make("regularizer", "router_frequency")(batch).item(), 0.25 + 0.49 + 0.04)


def test_density_of_a_mixture():
    # at 0, between means +-1 of std .5: log N(0; 1, .5) = -2 - log .5 - .9189385; tanh has slope 1 there
    mixture = TanhGaussianMixture(exact([0.0, 0.0]), exact([[1.0], [-1.0]]), exact([[0.5], [0.5]]).log())
    assert_close(mixture.log_prob(exact([0.0]), exact([0.0])).item(), -2.2257914, atol=6e-8, rtol=0)
    # unequal weights: log(.7 N(.3; 1, .5) + .3 N(.3; -1, .5)) - log(1 - tanh(.3)^2)
    weights = exact([0.7, 0.3])
    mixture = TanhGaussianMixture(weights.log(), exact([[1.0], [-1.0]]), exact([[0.5], [0.5]]).log())
    normal = [math.exp(-0.5 * ((0.3 - mean) / 0.5) ** 2) / (0.5 * math.sqrt(2 * math.pi)) for mean in (1.0, -1.0)]
    expected = math.log(0.7 * normal[0] + 0.3 * normal[1]) - math.log(1 - math.tanh(0.3) ** 2)
    assert_close(mixture.log_prob(exact([0.3]).tanh(), exact([0.3])).item(), expected)
    assert_close(mixture.log_prob(exact([0.3]).tanh()).item(), expected)


def random_mixture(experts: int, seed: int) -> TanhGaussianMixture:
    generator = torch.Generator().manual_seed(seed)
    mean, log_std = (torch.randn(6, 1, experts, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    logits = torch.randn(6, 1, experts, generator=generator, dtype=torch.float64)
    return TanhGaussianMixture(*(leaf.requires_grad_() for leaf in (logits, mean, 0.3 * log_std.detach())))


def test_every_experts_action_has_the_density_of_the_whole_mixture():
    mixture = random_mixture(3, 0)
    own, under_itself = mixture.experts(torch.Generator().manual_seed(1))
    for k in range(3):
        raw = own.raw[..., k, :]
        assert_close(own.logp[..., k], mixture.log_prob(raw.tanh(), raw))
        component = TanhGaussian(mixture.mean[..., k, :], mixture.log_std[..., k, :])
        assert_close(under_itself[..., k], component.log_prob(raw.tanh(), raw))
    own.logp.sum().backward()
    assert mixture.logits.grad is None  # the router is a constant of the experts' loss
    assert (mixture.mean.grad != 0).any()


def test_acting_draws_an_expert_by_its_weight_and_evaluation_takes_the_likeliest():
    logits = exact([0.2, 0.8]).log().expand(20000, 2)
    mean, log_std = exact([[-1.0], [1.0]]).expand(20000, 2, 1), exact(-6.0).expand(20000, 2, 1)
    mixture = TanhGaussianMixture(logits, mean, log_std)
    sample = mixture.sample(torch.Generator().manual_seed(0))
    assert_close((sample.action > 0).double().mean().item(), 0.8, atol=0.01, rtol=0)  # standard error .003
    assert_close(sample.logp, mixture.log_prob(sample.action, sample.raw))
    assert_close(mixture.mode(), exact(1.0).tanh().expand(20000, 1))


def quadratic(action: Tensor) -> Tensor:
    """Two critics, [..., 2]."""
    return torch.stack([-(action - 0.4).square().sum(-1), 0.1 - (action + 0.1).square().sum(-1)], -1)


def pmoe_batch(mixture: TanhGaussianMixture, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    experts, own = mixture.experts(generator)
    return rows(
        expert_q=quadratic(experts.action),
        expert_logp=experts.logp,
        expert_own_logp=own,
        sample_logp=mixture.pick(experts, generator).logp,
        router=mixture.weights,
        mask=torch.ones(6, 1, dtype=torch.bool),
    )


def pmoe_loss(batch: Batch, alpha: float, variant: str = "paper") -> Tensor:
    values = make("objective", "expert_value_gradient", variant=variant)(batch)
    entropy = make("regularizer", "entropy", estimator="experts", variant=variant)(batch)
    return values + alpha * entropy + make("regularizer", "router_frequency", variant=variant)(batch)


@pytest.mark.parametrize("variant", ["paper", "released"])
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0.0, 2.0))
def test_one_expert_is_sac(variant, seed, alpha):
    mixture = random_mixture(1, seed)
    batch = pmoe_batch(mixture, seed)
    loss = pmoe_loss(batch, alpha, variant)
    gradients = torch.autograd.grad(loss.sum(), (mixture.mean, mixture.log_std))
    single = TanhGaussian(mixture.mean[..., 0, :], mixture.log_std[..., 0, :])
    fresh = single.rsample(torch.Generator().manual_seed(seed))
    sac_batch = rows(q=quadratic(fresh.action).movedim(-1, 0), sample_logp=fresh.logp)
    sac = make("objective", "value_gradient")(sac_batch)
    sac = sac + alpha * make("regularizer", "entropy", estimator="sample")(sac_batch)
    assert_close(loss, sac)
    assert_close(gradients, torch.autograd.grad(sac.sum(), (mixture.mean, mixture.log_std)), atol=1e-9, rtol=1e-7)
    assert_close(batch.sample_logp, fresh.logp)  # what the temperature and the critics' targets see
    assert make("regularizer", "router_frequency")(batch).abs().max() == 0


def test_the_released_form_trains_the_best_expert_under_its_own_density():
    # Q = 1 and 2, own log-densities -1 and -3, alpha .5: -2 + .5 (-3); the paper: -3 + .5 (-1.5 - 1.2)
    batch = rows(
        expert_q=exact([[[[1.0], [2.0]]]]),
        expert_logp=exact([[[-1.5, -1.2]]]),
        expert_own_logp=exact([[[-1.0, -3.0]]]),
        router=exact([[[0.0, 1.0]]]),
        mask=MASK,
    )
    assert_close(pmoe_loss(batch, 0.5, "released").item(), -3.5)
    assert_close(pmoe_loss(batch, 0.5, "paper").item(), -4.35)


def test_two_experts_find_the_two_modes_of_a_reward():
    # r = -min((a - .7)^2, (a + .7)^2) in one state; the start is nearly symmetric
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    mean = torch.tensor([[[[0.05], [-0.05]]]], requires_grad=True)
    log_std = torch.full((1, 1, 2, 1), -1.0, requires_grad=True)
    optimizer = torch.optim.Adam([logits, mean, log_std], lr=0.02)
    for _ in range(400):
        mixture = TanhGaussianMixture(*(leaf.expand(64, *leaf.shape[1:]) for leaf in (logits, mean, log_std)))
        experts, _ = mixture.experts(generator)
        nearest = torch.minimum((experts.action - 0.7).square(), (experts.action + 0.7).square())
        batch = rows(expert_q=-nearest, expert_logp=experts.logp, router=mixture.weights, mask=torch.ones(64, 1).bool())
        optimizer.zero_grad()
        pmoe_loss(batch, 0.01).mean().backward()
        optimizer.step()
    assert_close(mean.detach().tanh().flatten().sort().values, torch.tensor([-0.7, 0.7]), atol=0.05, rtol=0)
    assert_close(logits.detach().softmax(-1).flatten(), torch.tensor([0.5, 0.5]), atol=0.15, rtol=0)


def test_options_and_policies_that_do_not_fit():
    from unirl.control import ControlDomain
    from unirl.domain import QSpec, Requirements

    with pytest.raises(UserError, match="variant of regularizer 'router_frequency'"):
        make("regularizer", "router_frequency", variant="max")
    with pytest.raises(UserError, match="variant=released is for estimator=experts"):
        make("regularizer", "entropy", variant="released")
    domain = ControlDomain({"env": "InvertedPendulum-v5"}, {"hidden": [8]})
    domain.build(Requirements(q=QSpec()))
    with pytest.raises(UserError, match="policy of several experts"):
        domain.score(domain.rollout(4, unit="segment"), {"expert_q"})
    with pytest.raises(UserError, match="experts is 0"):
        domain.build(Requirements(q=QSpec(), policy="gaussian_mixture", policy_options={"experts": 0}))

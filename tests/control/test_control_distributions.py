"""Log-densities, divergences and mixtures by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from unirl.control.distributions import Categorical, Deterministic, Gaussian, TanhGaussian

numbers = st.floats(-3.0, 3.0)


def normal(mean: float, std: float) -> Gaussian:
    return Gaussian(tensor([mean], dtype=torch.float64), tensor([std], dtype=torch.float64).log())


def squashed(mean: float, std: float) -> TanhGaussian:
    return TanhGaussian(tensor([mean], dtype=torch.float64), tensor([std], dtype=torch.float64).log())


def test_tanh_gaussian_log_prob_of_catalogue_entry_189():
    # u = 0.9, mu = 0.5, sigma = 0.8: a = tanh(0.9); log N = -0.5 * 0.25 - log 0.8 - 0.5 log(2 pi) = -0.820795;
    # minus log(1 - a^2) = -0.719661
    raw = tensor([0.9], dtype=torch.float64)
    logp = squashed(0.5, 0.8).log_prob(raw.tanh(), raw)
    assert_close(raw.tanh(), tensor([0.7162978701990245], dtype=torch.float64), rtol=0, atol=1e-15)
    assert_close(logp, tensor(-0.10113412195820515, dtype=torch.float64), rtol=0, atol=1e-12)


def test_tanh_gaussian_recovers_the_raw_value_where_it_was_not_recorded():
    raw = tensor([0.9], dtype=torch.float64)
    assert_close(squashed(0.5, 0.8).log_prob(raw.tanh()), tensor(-0.10113412195820515, dtype=torch.float64))


def test_tanh_gaussian_log_prob_stays_finite_where_the_action_saturates():
    # u = 30: tanh(u) == 1 in float32, 1 - tanh(u)^2 == 0; log N(30; 0, 1) = -450.918939 and
    # -2 (log 2 - 30 - softplus(-60)) = 58.613706
    policy = TanhGaussian(torch.zeros(1), torch.zeros(1))
    assert_close(policy.log_prob(torch.ones(1), tensor([30.0])), tensor(-392.305233))
    assert torch.isfinite(policy.log_prob(torch.ones(1)))


@given(numbers, st.floats(0.2, 2.0), numbers)
def test_tanh_gaussian_is_the_gaussian_divided_by_the_slope_of_tanh(mean, std, raw):
    u = tensor([raw], dtype=torch.float64)
    expected = normal(mean, std).log_prob(u) - torch.log(1 - u.tanh() ** 2).sum()
    assert_close(squashed(mean, std).log_prob(u.tanh(), u), expected, atol=1e-9, rtol=1e-9)


def test_gaussian_log_prob_and_entropy_by_hand():
    # two dimensions, z = (1, -2): -0.5 * (1 + 4) - (log 0.5 + log 2) - log(2 pi) = -2.5 - 1.837877
    policy = Gaussian(tensor([1.0, 2.0]), tensor([math.log(0.5), math.log(2.0)]))
    assert_close(policy.log_prob(tensor([1.5, -2.0])), tensor(-4.337877))
    # log 0.5 + log 2 + 2 * 0.5 * (1 + log(2 pi))
    assert_close(policy.entropy(), tensor(2.837877))


def test_gaussian_kl_by_hand():
    # N(0, 1) to N(1, 2): log 2 + (1 + 1) / 8 - 1/2
    assert_close(normal(0, 1).kl(normal(1, 2)), tensor(0.693147 + 0.25 - 0.5, dtype=torch.float64), atol=1e-6, rtol=0)
    # N(1, 2) to N(0, 1): -log 2 + (4 + 1) / 2 - 1/2
    assert_close(normal(1, 2).kl(normal(0, 1)), tensor(-0.693147 + 2.5 - 0.5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_categorical_kl_by_hand():
    # (1/2, 1/2) to (1/4, 3/4): 1/2 log 2 + 1/2 log(2/3) = 0.143841
    half, other = (Categorical.of_logits(tensor(p).log()) for p in ([0.5, 0.5], [0.25, 0.75]))
    assert_close(half.kl(other), tensor(0.143841), atol=1e-6, rtol=0)
    assert_close(half.entropy(), tensor(math.log(2.0)))


@settings(max_examples=10)
@given(numbers, st.floats(0.3, 2.0), numbers, st.floats(0.3, 2.0))
def test_closed_form_kl_is_the_mean_log_ratio_and_squashing_leaves_it_unchanged(mean, std, mean2, std2):
    own, other = normal(mean, std), normal(mean2, std2)
    half_steps = (torch.arange(4001, dtype=torch.float64) - 2000) / 2000 * 10 * std + mean
    ratio = own.log_prob(half_steps[:, None]) - other.log_prob(half_steps[:, None])
    mean_ratio = torch.trapezoid(own.log_prob(half_steps[:, None]).exp() * ratio, half_steps)
    assert_close(own.kl(other), mean_ratio, atol=1e-6, rtol=1e-5)
    assert_close(squashed(mean, std).kl(squashed(mean2, std2)), own.kl(other))


def test_geometric_mixture_of_gaussians_by_hand():
    # N(0, 1)^0.5 N(1, 2)^0.5: precision 0.5 + 0.5 / 4 = 0.625, mean 0.125 / 0.625 = 0.2
    mixture = normal(0, 1).geometric_mixture(normal(1, 2), 0.5)
    assert_close(mixture.mean, tensor([0.2], dtype=torch.float64))
    assert_close(mixture.log_std.exp(), tensor([1 / math.sqrt(0.625)], dtype=torch.float64))


def test_geometric_mixture_of_categoricals_by_hand():
    # (0.2, 0.8) and (0.8, 0.2) with weight 1/4: (0.2^.75 0.8^.25, 0.8^.75 0.2^.25) = (1, 2) / 3
    own, other = (Categorical.of_logits(tensor(p).log()) for p in ([0.2, 0.8], [0.8, 0.2]))
    assert_close(own.geometric_mixture(other, 0.25).probs, tensor([1 / 3, 2 / 3]))


@given(numbers, st.floats(0.3, 2.0), numbers, st.floats(0.3, 2.0), st.floats(0.05, 0.95), st.tuples(numbers, numbers))
def test_log_ratios_of_a_geometric_mixture_are_weighted_log_ratios(mean, std, mean2, std2, weight, points):
    # the normaliser cancels between two actions
    first, second = (tensor([u], dtype=torch.float64) for u in points)
    own, other = squashed(mean, std), squashed(mean2, std2)

    def ratio(policy: TanhGaussian) -> torch.Tensor:
        return policy.log_prob(first.tanh(), first) - policy.log_prob(second.tanh(), second)

    def spread(policy: TanhGaussian) -> torch.Tensor:  # log-densities of u; both carry the same Jacobian
        plain = Gaussian(policy.mean, policy.log_std)
        return plain.log_prob(first) - plain.log_prob(second)

    mixture = own.geometric_mixture(other, weight)
    assert_close(spread(mixture), (1 - weight) * spread(own) + weight * spread(other), atol=1e-8, rtol=1e-8)
    assert_close(ratio(mixture), (1 - weight) * ratio(own) + weight * ratio(other), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", [Gaussian, TanhGaussian])
def test_fresh_actions_carry_their_own_log_density_and_a_gradient(kind):
    mean, log_std = torch.zeros(5, 2, requires_grad=True), torch.zeros(5, 2, requires_grad=True)
    fresh = kind(mean, log_std).rsample(torch.Generator().manual_seed(0))
    assert_close(kind(mean, log_std).log_prob(fresh.action, fresh.raw), fresh.logp)
    fresh.action.sum().backward()
    assert (mean.grad > 0).all()


@pytest.mark.parametrize("policy", [normal(0.3, 0.5), squashed(0.3, 0.5), Deterministic(tensor([0.3]), 0.1)])
def test_sampling_repeats_with_the_generator_and_not_without(policy):
    generator = torch.Generator().manual_seed(1)
    first, second = policy.sample(generator).action, policy.sample(generator).action
    assert torch.equal(policy.sample(torch.Generator().manual_seed(1)).action, first)
    assert not torch.equal(first, second)


def test_deterministic_log_prob_is_minus_the_squared_distance_and_kl_its_mean_log_ratio():
    # (0.5, 0) to (0.2, 0.4): 0.09 + 0.16
    policy = Deterministic(tensor([0.5, 0.0]), 0.1)
    assert_close(policy.log_prob(tensor([0.2, 0.4])), tensor(-0.25))
    assert_close(policy.kl(Deterministic(tensor([0.2, 0.4]), 0.1)), tensor(0.25))
    assert_close(policy.rsample().action, policy.mean)


def test_deterministic_exploration_is_clipped_to_the_bounds():
    samples = Deterministic(torch.full((1000, 1), 0.95), 0.1).sample(torch.Generator().manual_seed(0)).action
    assert samples.max() == 1.0
    assert samples.std() > 0.01


def test_categorical_samples_follow_the_probabilities():
    policy = Categorical.of_logits(tensor([[0.1, 0.9]]).log().expand(4000, 2))
    assert_close(policy.sample(torch.Generator().manual_seed(0)).action.double().mean().item(), 0.9, atol=0.02, rtol=0)

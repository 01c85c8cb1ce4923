"""Maths shared by Nash-MD [70], INPO [40], Nash-MP [80] and EGPO [91], on exact tabular games."""

from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from unirl.errors import UserError
from unirl.preference.games import (
    TEST_GAME,
    Game,
    equilibrium_residual,
    exploitability,
    extragradient_step,
    game,
    geometric_mixture,
    iterates,
    kl_divergence,
    mirror_descent_step,
    mirror_step,
    nash_equilibrium,
    nash_mirror_prox_step,
)

MU = TEST_GAME.log_reference


def policy(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def close(log_policy, probabilities, digits=6):
    assert_close(log_policy.exp(), torch.tensor(probabilities, dtype=torch.float64), atol=0.6 * 10.0**-digits, rtol=0.0)


def gaps(path, optimum):
    return torch.stack([kl_divergence(optimum, log_policy) for log_policy in path])


def random_game(seed):
    generator = torch.Generator().manual_seed(seed)
    n = int(torch.randint(2, 8, (), generator=generator))
    upper = torch.rand(n, n, generator=generator, dtype=torch.float64).triu(1)
    preference = upper + (1 - upper.T).tril(-1) + 0.5 * torch.eye(n, dtype=torch.float64)
    reference = torch.softmax(2 * torch.randn(n, generator=generator, dtype=torch.float64), -1)
    start = torch.log_softmax(2 * torch.randn(n, generator=generator, dtype=torch.float64), -1)
    return Game(preference, reference), start


def test_win_rates_against_the_reference():
    # first row: .5 * .6 + .9 * .3 + .2 * .1 = .59
    assert_close(TEST_GAME.win_rate(MU), torch.tensor([0.59, 0.29, 0.59], dtype=torch.float64))


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (1.0, (0.644255, 0.241952, 0.113793)),
        (0.5, (0.666622, 0.196806, 0.136572)),
        (0.1, (0.492747, 0.154147, 0.353106)),
        (0.05, (0.387969, 0.208438, 0.403593)),
        (0.01, (0.314712, 0.279542, 0.405746)),
    ],
)
def test_regularised_equilibrium_of_the_cyclic_game(tau, expected):
    optimum = nash_equilibrium(TEST_GAME, tau)
    close(optimum, expected)
    assert equilibrium_residual(optimum, TEST_GAME, tau) < 1e-13
    assert abs(exploitability(optimum, TEST_GAME, tau)) < 1e-13


def test_equilibrium_distance_to_the_reference():
    assert abs(kl_divergence(nash_equilibrium(TEST_GAME, 0.1), MU) - 0.245796) < 6e-7


def test_the_unregularised_equilibrium_cannot_be_exploited():
    # (P12 - .5, P20 - .5, P01 - .5) = (.3, .3, .4): every outcome wins half of the time against it
    balanced = policy(0.3, 0.3, 0.4)
    assert_close(TEST_GAME.win_rate(balanced), torch.full((3,), 0.5, dtype=torch.float64))
    assert abs(exploitability(balanced, TEST_GAME)) < 1e-15
    # against mu the best answer wins .59 of the time
    assert_close(exploitability(MU, TEST_GAME), torch.tensor(0.09, dtype=torch.float64))


def test_exploitability_counts_only_outcomes_the_policy_can_play():
    # all on outcome 0: outcome 2 wins .8 of the time; at tau = 1, log(.6 e^.5 + .3 e^.1 + .1 e^.8) + log(1/.6) - .5
    certain = policy(1.0, 0.0, 0.0)
    assert_close(exploitability(certain, TEST_GAME), torch.tensor(0.3, dtype=torch.float64))
    expected = log(0.6 * exp(0.5) + 0.3 * exp(0.1) + 0.1 * exp(0.8)) - log(0.6) - 0.5
    assert_close(exploitability(certain, TEST_GAME, 1.0).item(), expected)


def test_the_explicit_step_maximises_the_proximal_objective():
    # argmax <P q, pi> - tau KL(pi || mu) - lam KL(pi || pi_k) is the explicit step with s = 1 / (lam + tau)
    base, tau, lam = policy(0.5, 0.2, 0.3), 0.1, 0.7
    payoff = TEST_GAME.win_rate(base)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=0.0)

    def loss():
        optimizer.zero_grad()
        pi = torch.log_softmax(logits, -1)
        value = -(payoff @ pi.exp() - tau * kl_divergence(pi, MU) - lam * kl_divergence(pi, base))
        value.backward()
        return value

    optimizer.step(loss)
    stepped = mirror_step(base, MU, payoff, 1 / (lam + tau), tau)
    assert_close(torch.softmax(logits.detach(), -1), stepped.exp(), atol=1e-7, rtol=0.0)


def test_mirror_prox_by_numbers():
    path = iterates(nash_mirror_prox_step, TEST_GAME, 0.5, 0.1, 20)
    close(mirror_step(MU, MU, TEST_GAME.win_rate(MU), 1 / 0.6, 0.1), (0.680304, 0.206312, 0.113384))
    close(path[1], (0.664479, 0.206059, 0.129462))
    distance = gaps(path, nash_equilibrium(TEST_GAME, 0.1))
    expected = torch.tensor([0.245796, 0.162222, 0.107938, 0.030483, 0.003420], dtype=torch.float64)
    assert_close(distance[[0, 1, 2, 5, 10]], expected, atol=6e-7, rtol=0.0)
    assert abs(distance[20] - 3.2e-5) < 6e-7
    assert abs((distance[1:] / distance[:-1]).max() - 0.66537) < 6e-6
    start = policy(0.5, 0.2, 0.3)
    close(mirror_step(start, MU, TEST_GAME.win_rate(start), 1 / 0.6, 0.1), (0.519757, 0.182654, 0.297589))
    close(nash_mirror_prox_step(start, TEST_GAME, 0.5, 0.1), (0.515634, 0.180478, 0.303888))


def test_extragradient_by_numbers():
    start = policy(0.5, 0.2, 0.3)
    close(mirror_descent_step(start, TEST_GAME, 0.5, 0.1), (0.505973, 0.194678, 0.299349))
    close(extragradient_step(start, TEST_GAME, 0.5, 0.1), (0.505601, 0.194472, 0.299926))


@pytest.mark.parametrize(
    ("step", "ratio", "after_50"),
    [(0.1, 0.98214, 9.75e-2), (0.5, 0.90692, 1.30e-3), (1.0, 0.80595, 1.74e-6), (1.6667, 0.66537, 2.8e-11)],
)
def test_extragradient_contracts_faster_than_one_minus_step_times_tau(step, ratio, after_50):
    distance = gaps(iterates(extragradient_step, TEST_GAME, step, 0.1, 50), nash_equilibrium(TEST_GAME, 0.1))
    largest = (distance[1:] / distance[:-1]).max()
    assert abs(largest - ratio) < 6e-6
    assert largest <= 1 - step * 0.1
    assert_close(distance[50].item(), after_50, rtol=0.02, atol=0.0)


def test_extragradient_converges_where_mirror_descent_does_not():
    # tau = .01, step 1: the last iterate of online mirror descent drifts away and stays away
    optimum = nash_equilibrium(TEST_GAME, 0.01)
    descent = gaps(iterates(mirror_descent_step, TEST_GAME, 1.0, 0.01, 5000), optimum)
    expected = torch.tensor([0.368, 0.396, 0.424, 0.430], dtype=torch.float64)
    assert_close(descent[[50, 200, 1000, 5000]], expected, atol=6e-4, rtol=0.0)
    ahead = gaps(iterates(extragradient_step, TEST_GAME, 1.0, 0.01, 1000), optimum)
    assert abs(ahead[50] - 0.0335) < 6e-5
    assert abs(ahead[200] - 8.1e-6) < 6e-8
    assert abs(ahead[1000]) < 1e-15


def test_mirror_descent_converges_under_a_stronger_regulariser():
    distance = gaps(iterates(mirror_descent_step, TEST_GAME, 1.0, 0.1, 50), nash_equilibrium(TEST_GAME, 0.1))
    assert abs(distance[10] - 0.0429) < 6e-5
    assert abs(distance[50] - 3.5e-5) < 6e-7


def test_mirror_prox_shrinks_the_distance_by_one_plus_two_tau_in_every_random_game():
    # 300 games of 2 to 7 outcomes, any start: the proven rate of lam = 1/2, 2 preference queries per step
    worst = 0.0
    for seed in range(300):
        of, start = random_game(seed)
        tau = (0.1, 0.3, 1.0)[seed % 3]
        optimum = nash_equilibrium(of, tau, tolerance=1e-13)
        distance = gaps(iterates(nash_mirror_prox_step, of, 0.5, tau, 5, start), optimum)
        usable = distance[:-1] > 1e-9  # below, rounding decides the ratio
        worst = max(worst, float((distance[1:] / distance[:-1])[usable].max() * (1 + 2 * tau)))
    assert worst <= 1 + 1e-6
    assert worst > 0.9  # the bound is nearly attained, so the games are hard enough to break a wrong rate


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), step=st.floats(0.05, 1.5), tau=st.floats(0.01, 0.5))
def test_extragradient_is_mirror_prox_with_another_name_for_the_step(seed, step, tau):
    of, start = random_game(seed)
    ours = iterates(extragradient_step, of, step, tau, 5, start)
    assert_close(ours, iterates(nash_mirror_prox_step, of, 1 / step - tau, tau, 5, start), atol=1e-12, rtol=0.0)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), tau=st.floats(0.05, 1.0))
def test_exploitability_is_never_negative_and_half_of_the_duality_gap(seed, tau):
    of, log_policy = random_game(seed)
    assert exploitability(log_policy, of, tau) > -1e-12
    # the best response ~ mu exp(P pi / tau), played against pi, gains exactly that much
    best = torch.log_softmax(of.log_reference + of.win_rate(log_policy) / tau, -1)
    gain = best.exp() @ of.win_rate(log_policy) - 0.5
    gain += tau * kl_divergence(log_policy, of.log_reference) - tau * kl_divergence(best, of.log_reference)
    assert_close(exploitability(log_policy, of, tau), gain)


def test_geometric_mixture_by_hand():
    # sqrt(.8 * .2) = sqrt(.2 * .8): equal weights
    close(geometric_mixture(policy(0.8, 0.2), policy(0.2, 0.8), 0.5), (0.5, 0.5))
    # .8^(3/4) .2^(1/4) against .2^(3/4) .8^(1/4): ratio 4^(1/2) = 2
    close(geometric_mixture(policy(0.8, 0.2), policy(0.2, 0.8), 0.25), (2 / 3, 1 / 3))


def test_no_equilibrium_is_given_without_a_regulariser_or_within_too_few_steps():
    with pytest.raises(UserError, match="needs tau > 0"):
        nash_equilibrium(TEST_GAME, 0.0)
    with pytest.raises(UserError, match="no equilibrium within 5 steps"):
        nash_equilibrium(TEST_GAME, 0.1, max_steps=5)


@pytest.mark.parametrize(
    ("preference", "reference", "says"),
    [
        ([[0.5, 0.9], [0.2, 0.5]], [0.5, 0.5], "P.i, j. . P.j, i. = 1"),
        ([[0.5]], [0.5, 0.5], "needs a matrix"),
        ([[0.5, 0.9], [0.1, 0.5]], [1.0, 0.0], "positive probabilities"),
        ([[0.5, 0.9], [0.1, 0.5]], [0.6, 0.6], "add up to 1"),
    ],
)
def test_what_is_no_game_is_refused(preference, reference, says):
    with pytest.raises(UserError, match=says):
        game(preference, reference)

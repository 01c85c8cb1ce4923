"""INPO: iterative Nash policy optimisation as online mirror descent with a pairwise regression loss."""

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.preference.games import (
    TEST_GAME,
    decreasing_step,
    exploitability,
    iterates,
    kl_divergence,
    mirror_descent_step,
    nash_equilibrium,
)

TAU, ETA = 0.1, 0.5
MU = TEST_GAME.log_reference
START = tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
EVERY_PAIR = torch.cartesian_prod(torch.arange(3), torch.arange(3))


def outcomes(log_policy: Tensor, prev: Tensor = START, **fields) -> Batch:
    """One row per outcome of one decision, compared in all nine ordered pairs."""
    return Batch(
        mask=torch.ones(3, 1, dtype=torch.bool),
        logp=log_policy[:, None],
        anchor_logp={"prev": prev[:, None], "ref": MU[:, None]},
        pairs=EVERY_PAIR,
        **fields,
    )


def population_loss(log_policy: Tensor, prev: Tensor = START) -> Tensor:
    """Exact win rates against `prev`, both rows drawn from it."""
    loss = make("objective", "log_ratio_regression", step=1 / ETA, tau=TAU, payoff="score")
    per_pair = loss(outcomes(log_policy, prev, score=TEST_GAME.win_rate(prev)))
    return (prev.exp()[EVERY_PAIR].prod(-1) * per_pair).sum()


def practical_loss(log_policy: Tensor, prev: Tensor = START) -> Tensor:
    """Labels 0 or 1 drawn from the preference; the expectation is taken over both outcomes of the label."""
    loss = make("objective", "log_ratio_regression", step=1 / ETA, tau=TAU)
    win, lose = (loss(outcomes(log_policy, prev, pair_label=torch.full((9,), label))) for label in (1.0, 0.0))
    chance = TEST_GAME.preference[EVERY_PAIR[:, 0], EVERY_PAIR[:, 1]]
    return (prev.exp()[EVERY_PAIR].prod(-1) * (chance * win + (1 - chance) * lose)).sum()


@pytest.mark.parametrize(
    ("start", "expected"), [(START, (0.523654, 0.179320, 0.297026)), (MU, (0.693928, 0.190418, 0.115655))]
)
def test_one_exact_step(start, expected):
    stepped = mirror_descent_step(start, TEST_GAME, 1 / ETA, TAU)
    assert_close(stepped.exp(), tensor(expected, dtype=torch.float64), atol=6e-7, rtol=0.0)


def test_population_loss_is_zero_at_the_mirror_step_with_zero_gradient():
    stepped = mirror_descent_step(START, TEST_GAME, 1 / ETA, TAU).requires_grad_()
    loss = population_loss(stepped)
    loss.backward()
    assert loss < 1e-28
    assert_close(stepped.grad, torch.zeros(3, dtype=torch.float64), atol=1e-14, rtol=0.0)


@pytest.mark.parametrize(
    ("policy", "population", "practical"),
    [
        ((1 / 3, 1 / 3, 1 / 3), 0.356703, 1.317503),
        ((0.7, 0.2, 0.1), 0.749133, 1.709933),
        ((0.1, 0.3, 0.6), 2.615423, 3.576223),
    ],
)
def test_practical_loss_is_the_population_loss_plus_a_constant(policy, population, practical):
    log_policy = tensor(policy, dtype=torch.float64).log()
    assert_close(population_loss(log_policy).item(), population, atol=6e-7, rtol=0.0)
    assert_close(practical_loss(log_policy).item(), practical, atol=6e-7, rtol=0.0)
    assert_close((practical_loss(log_policy) - population_loss(log_policy)).item(), 0.9608, atol=1e-12, rtol=0.0)


def test_practical_and_population_loss_have_the_same_gradient():
    gradients = []
    for loss in (population_loss, practical_loss):
        log_policy = tensor([0.2, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
        loss(torch.log_softmax(log_policy, -1)).backward()
        gradients.append(log_policy.grad)
    assert_close(gradients[0], gradients[1])


def test_minimising_the_practical_loss_reaches_the_mirror_step():
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-12, tolerance_change=0.0)

    def closure():
        optimizer.zero_grad()
        loss = practical_loss(torch.log_softmax(logits, -1))
        loss.backward()
        return loss

    optimizer.step(closure)
    stepped = mirror_descent_step(START, TEST_GAME, 1 / ETA, TAU)
    assert_close(torch.softmax(logits.detach(), -1), stepped.exp(), atol=1e-9, rtol=0.0)


def test_without_a_pull_to_the_reference_it_is_ipo_around_the_previous_policy():
    policy = tensor([0.1, 0.3, 0.6], dtype=torch.float64).log()
    ours = make("objective", "log_ratio_regression", step=1 / ETA, tau=0.0)(outcomes(policy))
    ipo = make("objective", "ipo", beta=ETA)(outcomes(policy).replace(anchor_logp={"ref": START[:, None]}))
    assert_close(ours, ipo)


def test_with_the_whole_pull_to_the_reference_it_is_ipo_around_the_reference():
    policy = tensor([0.1, 0.3, 0.6], dtype=torch.float64).log()
    ours = make("objective", "log_ratio_regression", step=1 / ETA, tau=ETA)(outcomes(policy))
    assert_close(ours, make("objective", "ipo", beta=ETA)(outcomes(policy)))


@pytest.mark.parametrize(
    ("logits", "opponent", "expected"),
    [
        (None, None, (0.607142, 0.291668, 0.101190)),
        ((0.3, -0.2, 0.5), (0.3, -0.2, 0.5), (0.355798, 0.216165, 0.428037)),
    ],
)
def test_a_gradient_step_on_the_exact_loss_is_a_mirror_step(logits, opponent, expected):
    # identity I1: learning rate a on the mean over all n^2 ordered pairs is the step s = 4 a / (n tau)
    rate, n = 0.01, 3
    theta = (MU.clone() if logits is None else tensor(logits, dtype=torch.float64)).requires_grad_()
    q = MU if opponent is None else torch.log_softmax(tensor(opponent, dtype=torch.float64), -1)
    loss = make("objective", "log_ratio_regression", step=1 / TAU, tau=TAU, payoff="score")
    before = torch.log_softmax(theta, -1)
    loss(outcomes(before, score=TEST_GAME.win_rate(q))).mean().backward()
    after = torch.log_softmax((theta - rate * theta.grad).detach(), -1)
    assert_close(after.exp(), tensor(expected, dtype=torch.float64), atol=6e-7, rtol=0.0)
    s = 4 * rate / (n * TAU)
    explicit = (1 - s * TAU) * before.detach() + s * TAU * MU + s * TEST_GAME.win_rate(q)
    assert_close(after, torch.log_softmax(explicit, -1))


def test_the_fixed_point_of_a_constant_step_is_the_equilibrium():
    optimum = nash_equilibrium(TEST_GAME, TAU)
    for eta in (0.5, 1.0, 4.0):
        assert_close(mirror_descent_step(optimum, TEST_GAME, 1 / eta, TAU), optimum, atol=1e-13, rtol=0.0)
        last = iterates(mirror_descent_step, TEST_GAME, 1 / eta, TAU, 2000)[-1]
        assert kl_divergence(optimum, last) < 1e-12


def test_the_decreasing_step_converges_within_its_bound():
    # eta_t = tau (t + 2) / 2: KL tau^2 (T + 1) <= 8 for every T
    optimum = nash_equilibrium(TEST_GAME, TAU)
    path = iterates(mirror_descent_step, TEST_GAME, decreasing_step(TAU), TAU, 1000)
    scaled = torch.stack([kl_divergence(optimum, p) * TAU**2 * (t + 1) for t, p in enumerate(path)])
    assert scaled.max() <= 8
    assert abs(scaled[10] - 1.8e-3) < 6e-5
    assert abs(scaled[100] - 5e-6) < 6e-7


def test_the_average_of_constant_steps_closes_the_duality_gap_within_its_bound():
    # tau = 0, s = .1 from mu: gap <= ln(1 / min mu) / (s T) + s / 8, while the last iterate is exploited ever more
    path = iterates(mirror_descent_step, TEST_GAME, 0.1, 0.0, 10_000)
    for steps, average_gap, last_gap, bound in ((1000, 0.0210, 0.15492, 0.0355), (10_000, 0.00184, 0.30985, 0.0148)):
        average = path[:steps].exp().mean(0).log()
        assert abs(exploitability(average, TEST_GAME) - average_gap) < 6e-5
        assert exploitability(average, TEST_GAME) <= bound
        assert abs(exploitability(path[steps], TEST_GAME) - last_gap) < 6e-6

"""Nash-MD: mirror descent against the geometric mixture of the policy and the reference."""

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.preference.games import (
    TEST_GAME,
    decreasing_step,
    geometric_mixture,
    iterates,
    kl_divergence,
    nash_equilibrium,
    nash_md_step,
)

TAU = 0.1
MU = TEST_GAME.log_reference
START = tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
THETA = (0.3, -0.2, 0.5)
EVERY_PAIR = torch.cartesian_prod(torch.arange(3), torch.arange(3))
CHANCE = TEST_GAME.preference[EVERY_PAIR[:, 0], EVERY_PAIR[:, 1]]


def distances(path: Tensor) -> Tensor:
    optimum = nash_equilibrium(TEST_GAME, TAU)
    return torch.stack([kl_divergence(optimum, log_policy) for log_policy in path])


def test_one_step_by_numbers():
    mixture = geometric_mixture(START, MU, 0.5 * TAU)
    assert_close(mixture.exp(), tensor([0.508320, 0.205609, 0.286071], dtype=torch.float64), atol=6e-7, rtol=0.0)
    stepped = nash_md_step(START, TEST_GAME, 0.5, TAU)
    assert_close(stepped.exp(), tensor([0.507083, 0.193751, 0.299166], dtype=torch.float64), atol=6e-7, rtol=0.0)


@pytest.mark.parametrize("step", [0.05, 0.2, 1.0])
def test_every_step_keeps_its_inequality(step):
    # KL(pi* || pi_{t+1}) <= (1 - eta tau) KL(pi* || pi_t) + 2 eta^2
    distance = distances(iterates(nash_md_step, TEST_GAME, step, TAU, 200))
    assert (distance[1:] <= (1 - step * TAU) * distance[:-1] + 2 * step**2 + 1e-15).all()


def test_the_decreasing_step_converges_within_its_bound():
    # eta_t = 2 / (tau (t + 2)): KL <= 8 / (tau^2 (T + 1)); in fact as 1 / T^2
    distance = distances(iterates(nash_md_step, TEST_GAME, decreasing_step(TAU), TAU, 1000))
    times = torch.arange(1001)
    assert (distance <= 8 / (TAU**2 * (times + 1))).all()
    assert abs(distance[10] - 0.01824) < 6e-6
    assert abs(distance[100] - 1.03e-4) < 6e-7
    assert abs(distance[1000] - 1.06e-6) < 6e-9
    assert (times**2 * distance)[100:].max() < 1.2


@pytest.mark.parametrize(
    ("step", "probabilities", "distance", "digit"),
    [(0.5, (0.491901, 0.143488, 0.364611), 5.7e-4, 1e-5), (1.0, None, 2.42e-3, 1e-5), (0.1, None, 2.2e-5, 1e-6)],
)
def test_a_constant_step_ends_beside_the_equilibrium(step, probabilities, distance, digit):
    path = iterates(nash_md_step, TEST_GAME, step, TAU, 5000)
    assert_close(path[-1], path[-2], atol=1e-13, rtol=0.0)  # it has converged
    reached = distances(path[-1:]).item()
    assert abs(reached - distance) < 0.6 * digit
    assert reached <= 2 * step / TAU
    if probabilities:
        assert_close(path[-1].exp(), tensor(probabilities, dtype=torch.float64), atol=6e-7, rtol=0.0)


def self_play() -> tuple[Tensor, Tensor]:
    """Logits, and log-probabilities of the nine (own, opponent) draws, [9, 1], differentiable in the own draw."""
    theta = tensor(THETA, dtype=torch.float64, requires_grad=True)
    return theta, torch.log_softmax(theta, -1)[EVERY_PAIR[:, 0], None]


def online_ipo_gradient() -> Tensor:
    """Gradient of E_{y, y' ~ sg pi}[(h(y) - h(y') - (P(y > y') - 1/2) / tau)^2] in the logits."""
    theta = tensor(THETA, dtype=torch.float64, requires_grad=True)
    log_policy = torch.log_softmax(theta, -1)
    rows = Batch(
        mask=torch.ones(3, 1, dtype=torch.bool),
        logp=log_policy[:, None],
        anchor_logp={"ref": MU[:, None]},
        pairs=EVERY_PAIR,
        pair_label=CHANCE,
    )
    loss = make("objective", "log_ratio_regression", step=1 / TAU, tau=TAU, base="ref")(rows)
    chance = log_policy.detach().exp()[EVERY_PAIR].prod(-1)
    (chance * loss).sum().backward()
    return theta.grad


def test_online_ipo_gradient_by_numbers():
    expected = tensor([-0.656131, -0.505990, 1.162121], dtype=torch.float64)
    assert_close(online_ipo_gradient(), expected, atol=6e-7, rtol=0.0)


def test_online_ipo_gradient_is_minus_four_over_tau_times_the_self_play_gradient():
    # identity I2, objective pi^T P sg(pi) - tau KL(pi || mu)
    theta = tensor(THETA, dtype=torch.float64, requires_grad=True)
    log_policy = torch.log_softmax(theta, -1)
    value = log_policy.exp() @ TEST_GAME.win_rate(log_policy.detach()) - TAU * kl_divergence(log_policy, MU)
    value.backward()
    assert_close(online_ipo_gradient(), -4 / TAU * theta.grad)


def test_the_policy_gradient_of_self_play_is_tau_over_four_of_the_online_ipo_gradient():
    # mixture 0: the opponent is the policy itself; the advantage P - 1/2 - tau log(pi / mu) is a constant
    theta, logp = self_play()
    advantage = CHANCE[:, None] - 0.5 - TAU * (logp - MU[EVERY_PAIR[:, 0], None]).detach()
    batch = Batch(mask=torch.ones(9, 1, dtype=torch.bool), logp=logp, advantage=advantage)
    chance = torch.log_softmax(theta, -1).detach().exp()[EVERY_PAIR].prod(-1, keepdim=True)
    (chance * make("objective", "policy_gradient")(batch)).sum().backward()
    assert_close(theta.grad, TAU / 4 * online_ipo_gradient())


def test_the_chain_of_parts_gives_the_same_gradient():
    # rows come in (policy, opponent) couples; parts as in the method's configuration
    theta, logp = self_play()
    own, rival = EVERY_PAIR.unbind(-1)
    outcome = torch.stack([own, rival], -1).reshape(-1)
    everyone = torch.stack([logp.squeeze(-1), logp.detach()[:, 0]], -1).reshape(-1, 1)
    edges = [0.5, 1.5]  # the three bins of the taste are the three outcomes
    batch = Batch(
        mask=torch.ones(18, 1, dtype=torch.bool),
        logp=everyone,
        old_logp=everyone.detach(),
        anchor_logp={"ref": MU[outcome, None]},
        score=outcome.double(),
        group=torch.arange(9).repeat_interleave(2),
        source=torch.tensor([0, 1]).repeat(9),
        terminated=torch.ones(18, 1, dtype=torch.bool),
        truncated=torch.zeros(18, 1, dtype=torch.bool),
    )
    for kind, name, hyper in (
        ("reward", "annotate", {"annotator": {"name": "cyclic", "edges": edges}, "pairing": "opponent"}),
        ("reward", "win_rate", {}),
        ("reward", "outcome", {}),
        ("reward", "kl_in_reward", {"coef": TAU}),
        ("advantage", "mc", {"gamma": 1.0}),
        ("selection", "of_source", {"source": 0}),
    ):
        batch = make(kind, name, **hyper)(batch)
    chance = torch.log_softmax(theta, -1).detach().exp()[EVERY_PAIR].prod(-1).repeat_interleave(2)[:, None]
    loss = make("objective", "policy_gradient")(batch) * batch.weight
    (chance * loss).sum().backward()
    assert_close(theta.grad, TAU / 4 * online_ipo_gradient())

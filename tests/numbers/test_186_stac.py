"""STAC [186]: the likelihood's number, the bandit that pessimism decides, and the reduction to squared error."""

import math

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from unirl import make
from unirl.critics.gaussian_losses import LikelihoodLoss
from unirl.critics.returns import GaussianReturns

FAST = settings(max_examples=30, derandomize=True)


def of_one(y: float, mean: float, sigma: float, **options: float) -> tuple[float, float, float]:
    """The loss of one decision, and its gradients in the mean and the spread."""
    leaves = [torch.tensor([[number]], dtype=torch.float64, requires_grad=True) for number in (mean, sigma)]
    target, mask = torch.tensor([[y]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    loss = LikelihoodLoss(**options)(GaussianReturns(*leaves), target, target, mask)
    loss.sum().backward()
    return loss.item(), leaves[0].grad.item(), leaves[1].grad.item()


def test_the_likelihood_and_its_gradients():
    # (2 - 1)^2 / (2 * .25) + log .5 = 2 - .6931472; -(2 - 1) / .25 and 1 / .5 - 1 / .125
    loss, of_mean, of_spread = of_one(2.0, 1.0, 0.5)
    assert_close(loss, 1.3068528, atol=5e-8, rtol=0)
    assert_close((of_mean, of_spread), (-4.0, -6.0))


def test_stabilized_it_moves_the_mean_by_the_error_over_sigma():
    # the weight sg[sigma^(2 * .5)] = .5 halves everything here; no gradient flows through the weight
    loss, of_mean, of_spread = of_one(2.0, 1.0, 0.5, stabilize=0.5)
    assert_close(loss, 0.5 * 1.3068528, atol=5e-8, rtol=0)
    assert_close((of_mean, of_spread), (-2.0, -3.0))


@FAST
@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_the_spread_settles_at_the_error(error, sigma):
    _, _, of_spread = of_one(error, 0.0, sigma)
    assert of_spread * (sigma - abs(error)) >= 0  # above the error it falls, below it rises


@FAST
@given(st.floats(-5, 5), st.floats(-5, 5))
def test_with_a_fixed_spread_of_one_it_is_half_the_squared_error(y, mean):
    loss, of_mean, _ = of_one(y, mean, 1.0)
    assert_close((loss, of_mean), (0.5 * (y - mean) ** 2, mean - y))


def arms(beta: float) -> list[float]:
    """What the actor maximises for a sure reward of 1, and for N(1.2, 1), with exact heads."""
    batch = rows(q=[[[1.0], [1.2]]], q_std=[[[0.0], [1.0]]], mask=torch.ones(2, 1, dtype=torch.bool))
    objective = make("objective", "value_gradient", target={"lower": beta, "spread": "predicted"})
    return (-objective(batch)).flatten().tolist()


@pytest.mark.parametrize(("beta", "values"), [(0.5, [1.0, 0.7]), (0.1, [1.0, 1.1])])
def test_pessimism_decides_between_a_sure_and_a_risky_arm(beta, values):
    assert_close(arms(beta), values)


def transition(**fields):
    made = {
        "reward": [[1.0]],
        "terminated": [[False]],
        "next_q": [[[4.0]]],
        "next_q_std": [[[2.0]]],
        "next_logp": [[-2.0]],
        "q_data": [[[3.0]]],
        "q_data_std": [[[0.5]]],
        "temperature": torch.tensor(0.5).double(),
    }
    return rows(**{**made, **fields})


def test_the_target_is_pessimistic():
    # 1 + .5 (4 - .5 * 2 - .5 * -2) = 3; the loss is that of an exact mean, log .5
    critic = make("critic", "gaussian_q", heads=1, gamma=0.5, target={"lower": 0.5, "spread": "predicted"}, loss="nll")
    assert critic.target(transition()).item() == 3.0
    assert_close(critic.loss(transition()).item(), math.log(0.5))


def test_without_pessimism_the_target_is_that_of_soft_q():
    neutral = make("critic", "gaussian_q", heads=1, target={"lower": 0.0, "spread": "predicted"}, loss="nll")
    assert_close(neutral.target(transition()), make("critic", "soft_q").target(transition()))

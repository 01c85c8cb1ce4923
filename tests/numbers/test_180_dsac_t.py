"""DSAC-T [180]: the catalogue's numbers, gradients of both forms of the loss, and what the targets are made of."""

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from unirl import make
from unirl.critics.gaussian_losses import VarianceScaled
from unirl.critics.returns import GaussianReturns


def exact(values: list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


MASK = torch.ones(1, 1, dtype=torch.bool)


def held(variant: str, spread: float, variance: float) -> VarianceScaled:
    """The loss with running averages that this batch moves by nothing worth counting."""
    loss = VarianceScaled(variant, rate=1e-15)
    loss.load_state_dict({"spread": exact([[spread]]), "variance": exact([[variance]])})
    return loss


def one(loss: VarianceScaled, q: float, sigma: float, y: float, z: float) -> tuple[float, float, float]:
    """The loss of one decision, and its gradients in the mean and the spread."""
    center, spread = exact([[q]]).requires_grad_(), exact([[sigma]]).requires_grad_()
    value = loss(GaussianReturns(center, spread), exact([[y]]), exact([[z]]), MASK)
    value.sum().backward()
    return value.item(), center.grad.item(), spread.grad.item()


def test_the_papers_gradients():
    # Q 1, sigma 2, b 1.5, y 3, z 9: C - Q = 4.5; 2.25 / 4.1 * (1 - 3) and -2.25 * (4.5^2 - 4) / 8.1
    _, of_mean, of_spread = one(held("paper", 1.5, 2.25), 1.0, 2.0, 3.0, 9.0)
    assert_close(of_mean, -1.0975610, atol=5e-8, rtol=0)
    assert_close(of_spread, -4.5138889, atol=5e-8, rtol=0)


def test_the_released_loss_and_its_gradients():
    # rho = 2.25 / 4.1 = .5487805; rho {2 + 2 (4 - 10.125) / 2.1}
    loss, of_mean, of_spread = one(held("released", 1.5, 2.25), 1.0, 2.0, 3.0, 9.0)
    assert_close(loss, -2.1036585, atol=5e-8, rtol=0)
    assert_close(of_mean, -1.0975610, atol=5e-8, rtol=0)
    assert_close(of_spread, -1.6006098, atol=5e-8, rtol=0)


@pytest.mark.parametrize(("variant", "fixed_point"), [("paper", 4.0), ("released", 2.0)])
def test_the_spread_settles_at_the_error_or_at_half_of_it(variant, fixed_point):
    # (z - Q)^2 = 4: the paper's sigma^2 is 4, the code's half of it
    _, _, at = one(held(variant, 1.5, 2.25), 0.0, fixed_point**0.5, 0.0, 2.0)
    _, _, below = one(held(variant, 1.5, 2.25), 0.0, 0.9 * fixed_point**0.5, 0.0, 2.0)
    assert abs(at) < 1e-12 and below < 0


@settings(max_examples=20, derandomize=True)
@given(st.floats(1.0, 50.0))
def test_the_step_of_the_mean_does_not_depend_on_the_scale_of_rewards(c):
    # with sigma and rewards c times as large the factor omega / sigma^2 is the same (up to epsilon): the gradient is
    # c times as large as the error is, where a loss without omega would shrink by 1 / c
    big = 100.0  # sigma^2 far above epsilon
    _, small, _ = one(held("paper", big, big**2), 0.0, big, 1.0, 1.0)
    _, scaled, _ = one(held("paper", c * big, (c * big) ** 2), 0.0, c * big, c, c)
    assert_close(scaled / small, c, rtol=2e-5, atol=0)


def test_the_running_averages_start_at_the_first_batch_and_follow_at_their_rate():
    loss = VarianceScaled(rate=0.25)
    mask = torch.tensor([[True, True, False]])
    for spread in ([[1.0, 3.0, 100.0]], [[5.0, 7.0, 100.0]]):
        zeros = torch.zeros(1, 3).double()
        loss(GaussianReturns(zeros, exact(spread)), zeros, zeros, mask)
    # 2 + (6 - 2) / 4 and 5 + (37 - 5) / 4
    assert loss.spread.item() == 3.0 and loss.variance.item() == 13.0


def twins(**fields):
    """Reward 1; the second head has the smaller mean, 4 against 6, and a spread of 2 against .5."""
    made = {
        "reward": [[1.0]],
        "terminated": [[False]],
        "next_q": [[[6.0]], [[4.0]]],
        "next_q_std": [[[0.5]], [[2.0]]],
        "next_logp": [[-2.0]],
        "q_data": [[[2.0]], [[5.0]]],
        "q_data_std": [[[1.0]], [[3.0]]],
        "temperature": torch.tensor(0.5).double(),
    }
    return rows(**{**made, **fields})


def test_targets_come_from_the_twin_with_the_smaller_mean():
    # 1 + .5 (4 - .5 * -2) = 3.5; samples lie within 3 * 2 * .5 of it, and scatter with the second head's spread
    critic = make("critic", "gaussian_q", gamma=0.5)
    assert critic.target(twins()).item() == 3.5
    noise = torch.stack([critic._noise(twins()) for _ in range(1000)])
    assert noise.abs().max() <= 3.0
    assert abs(noise.std().item() - 1.0) < 0.1  # .5 * 2; clipping at three spreads takes off 1.3%


def test_a_termination_has_neither_a_next_value_nor_noise():
    critic = make("critic", "gaussian_q")
    ended = twins(terminated=[[True]], next_q=[[[float("nan")]], [[float("nan")]]])
    assert critic.target(ended).item() == 1.0 and critic._noise(ended).item() == 0.0


def test_the_loss_trains_means_and_spreads_of_both_twins_and_nothing_else():
    leaves: dict[str, Tensor] = {}
    for name in ("q_data", "q_data_std", "next_q", "next_q_std"):
        leaves[name] = getattr(twins(), name).clone().requires_grad_()
    make("critic", "gaussian_q").loss(twins(**leaves)).sum().backward()
    assert (leaves["q_data"].grad != 0).all() and (leaves["q_data_std"].grad != 0).all()
    assert leaves["next_q"].grad is None and leaves["next_q_std"].grad is None


def test_a_restored_critic_continues_with_the_same_noise_and_averages():
    first, second = make("critic", "gaussian_q", rate=0.5), make("critic", "gaussian_q", rate=0.5, seed=1)
    first.loss(twins())
    second.load_state_dict(first.state_dict())
    moved = twins(q_data_std=[[[9.0]], [[8.0]]])
    assert torch.equal(first.loss(moved), second.loss(moved))
    assert not torch.equal(first.loss(moved), make("critic", "gaussian_q", rate=0.5).loss(moved))

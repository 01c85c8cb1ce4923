"""f-DVL and ReCOIL [123]: the catalogue's numbers for dual value regressions."""

import math

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.critics.divergences import DIVERGENCES
from unirl.errors import UserError

ERRORS = [-5.0, -4.0, -2.0, 0.0, 1.0, 2.0]
DATA = [0.0, 1.0, 2.0, 3.0]  # critic values of the recorded actions of one state


def losses(errors: list[float] = ERRORS, **critic: object) -> tuple[Tensor, Tensor]:
    """Loss and its derivative in V for every error u = Q - V, at V = 0."""
    batch = rows(value_pred=[[0.0] * len(errors)], target_q_data=[[errors]], grad="value_pred")
    loss = make("critic", "v", target="q_data", **critic).loss(batch)
    (gradient,) = torch.autograd.grad(loss.sum(), batch.value_pred)
    return loss.detach()[0], gradient[0]


def optimum(**critic: object) -> float:
    """The V of the single state that minimises the mean loss over `DATA`, by bisection of the derivative's sign."""
    low, high = -1.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        _, gradient = losses([q - middle for q in DATA], **critic)
        low, high = (middle, high) if gradient.sum() < -1e-12 else (low, middle)
    return high


@pytest.mark.parametrize(
    ("critic", "expected"),
    [
        # lam max(u + u^2/4, 0) - (1 - lam) u: at -5 the released form adds .8 * 1.25
        ({"loss": "chi_square", "lam": 0.8, "variant": "released"}, [2, 0.8, 0.4, 0, 0.8, 2]),
        ({"loss": "chi_square", "lam": 0.8}, [1, 0.8, 0.4, 0, 0.8, 2]),
        ({"loss": "total_variation", "lam": 0.8}, [1, 0.8, 0.4, 0, 0.6, 1.2]),
        # e^u - u - 1
        ({"loss": "gumbel", "rescale": False}, [4.006738, 3.018316, 1.135335, 0, 0.718282, 4.389056]),
        # the same times e^-2, as 2 is the largest u
        ({"loss": "gumbel"}, [math.exp(-2) * x for x in [4.006738, 3.018316, 1.135335, 0, 0.718282, 4.389056]]),
    ],
)
def test_value_losses_of_six_errors(critic, expected):
    loss, _ = losses(**critic)
    assert_close(loss, tensor(expected, dtype=torch.float64), atol=5e-7, rtol=0)


def test_value_gradients_of_six_errors():
    # d/dV = -d/du. chi-square: -(lam (1 + u/2) 1[u > 0] - (1 - lam)); released also 1 + u/2 = -1.5 at u = -5
    _, masked = losses(loss="chi_square", lam=0.8)
    assert_close(masked[[0, 1, 2, 4, 5]], tensor([0.2, 0.2, 0.2, -1.0, -1.4]).double())
    _, released = losses(loss="chi_square", lam=0.8, variant="released")
    assert_close(released[[0, 2, 4, 5]], tensor([1.4, 0.2, -1.0, -1.4]).double())
    _, total = losses(loss="total_variation", lam=0.8)
    assert_close(total[[0, 1, 2, 4, 5]], tensor([0.2, 0.2, 0.2, -0.6, -0.6]).double())
    _, gumbel = losses(loss="gumbel", rescale=False)
    assert_close(gumbel, 1 - tensor(ERRORS).double().exp())


def test_gumbel_has_no_gradient_beyond_its_clip_and_its_temperature_divides():
    # u = 3, T = 2: z = 1.5; clipped at 1: e - 2
    loss, gradient = losses([3.0], loss="gumbel", temperature=2.0, clip=1.0, rescale=False)
    assert_close(loss.item(), math.e - 2)
    assert gradient.item() == 0.0
    _, free = losses([3.0], loss="gumbel", temperature=2.0, clip=None, rescale=False)
    assert_close(free.item(), -(math.exp(1.5) - 1) / 2)


def test_gumbel_rescales_by_the_largest_masked_error_alone():
    batch = rows(value_pred=[[0.0, 0.0]], target_q_data=[[[1.0, 50.0]]], mask=tensor([[True, False]]))
    loss = make("critic", "v", target="q_data", loss="gumbel", clip=None).loss(batch)
    assert_close(loss[0, 0].item(), math.exp(-1) * (math.e - 2))


def test_gumbel_errors_of_other_rows_may_overflow():
    batch = rows(value_pred=[[0.0, 0.0]], target_q_data=[[[1.0, 1e6]]], mask=tensor([[True, False]]))
    batch = batch.replace(value_pred=batch.value_pred.requires_grad_())
    loss = make("critic", "v", target="q_data", loss="gumbel", clip=None).loss(batch)
    loss[0, 0].backward()
    assert loss.isfinite().all() and batch.value_pred.grad.isfinite().all()


@pytest.mark.parametrize(
    ("critic", "value"),
    [
        ({"loss": "chi_square", "lam": 0.5}, 1.0),
        ({"loss": "chi_square", "lam": 0.6}, 11 / 6),
        ({"loss": "chi_square", "lam": 0.8}, 3.0),
        ({"loss": "chi_square", "lam": 0.9}, 3.0),
        ({"loss": "total_variation", "lam": 0.6}, 1.0),
        ({"loss": "total_variation", "lam": 0.9}, 3.0),
        ({"loss": "gumbel", "clip": None}, 2.0538953),  # log mean e^Q
        ({"loss": "gumbel", "clip": None, "rescale": False}, 2.0538953),
    ],
)
def test_optimal_value_of_a_single_state(critic, value):
    assert_close(optimum(**critic), value, atol=1e-6, rtol=0)


@settings(max_examples=30, derandomize=True)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=8), st.floats(0.51, 0.99))
def test_total_variation_is_quantile_regression(errors, lam):
    loss, _ = losses(errors, loss="total_variation", lam=lam)
    error, level = tensor(errors).double(), (2 * lam - 1) / lam
    assert_close(loss, lam * (level - (error < 0).double()) * error)


@pytest.mark.parametrize(("lam", "level"), [(0.6, 1 / 3), (0.8, 0.75), (0.9, 8 / 9)])
def test_total_variation_finds_the_quantile_that_lam_stands_for(lam, level):
    targets = torch.arange(0.5, 36.0).double()  # 36 of them: the level's quantile lies between two
    below, above = math.floor(36 * level - 0.5) + 0.25, math.floor(36 * level - 0.5) + 1.75
    slope = [losses((targets - value).tolist(), loss="total_variation", lam=lam)[1].sum() for value in (below, above)]
    assert slope[0] < 0 < slope[1]


@pytest.mark.parametrize("lam", [0.55, 0.6, 0.75, 0.78])
def test_chi_square_is_stationary_where_the_ratios_have_the_mean_that_lam_asks_for(lam):
    # lam mean[(1 + u / 2) 1(u > 0)] = 1 - lam at an optimum that is none of the data: (4.5 - V) / 4 for V in (1, 2)
    error = tensor(DATA).double() - optimum(loss="chi_square", lam=lam)
    ratio = torch.where(error > 0, 1 + error / 2, 0)
    assert_close((lam * ratio.mean()).item(), 1 - lam, atol=1e-6, rtol=0)


@settings(max_examples=30, derandomize=True)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=8), st.floats(0.05, 1.0))
def test_the_released_chi_square_differs_only_below_minus_four(errors, lam):
    masked, _ = losses(errors, loss="chi_square", lam=lam)
    released, _ = losses(errors, loss="chi_square", lam=lam, variant="released")
    near = tensor(errors) >= -4
    assert_close(masked[near], released[near])
    assert (released[~near] > masked[~near] - 1e-12).all()


@settings(max_examples=30, derandomize=True)
@given(st.floats(-6, 6))
def test_conjugates_have_the_density_ratio_as_derivative(y):
    for divergence in DIVERGENCES.values():
        at = tensor(y, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(divergence.conjugate(at), at)
        assert_close(slope, divergence.ratio(at.detach()))


def test_pearson_conjugate_is_flat_below_minus_two():
    values = DIVERGENCES["chi_square"].conjugate(tensor([-4.0, -2.0, -1.0, 0.0, 1.0, 2.0]))
    assert values.tolist() == [-1.0, -1.0, -0.75, 0.0, 1.25, 3.0]


def test_huber_is_the_squared_error_up_to_delta_and_linear_beyond():
    # y = 0, delta 2: u^2 = 1; beyond: 2 (2 * 3 - 2) = 8, slope 2 delta = 4
    values = tensor([[[1.0, -3.0]]], requires_grad=True)
    batch = Batch(
        mask=torch.ones(1, 2, dtype=torch.bool),
        q_data=values,
        reward=torch.zeros(1, 2),
        terminated=torch.ones(1, 2, dtype=torch.bool),
        next_q=torch.zeros(1, 1, 2),
    )
    loss = make("critic", "q", loss="huber", delta=2.0).loss(batch)
    assert loss.tolist() == [[1.0, 8.0]]
    (gradient,) = torch.autograd.grad(loss.sum(), values)
    assert gradient.flatten().tolist() == [2.0, -4.0]


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        ({"loss": "chi_square", "lam": 0.0}, "lam is 0"),
        ({"loss": "chi_square", "variant": "code"}, "variant of regression 'chi_square'"),
        ({"loss": "total_variation", "lam": 0.5}, "strictly between 1/2 and 1"),
        ({"loss": "gumbel", "temperature": 0.0}, "must be positive"),
        ({"loss": "huber", "delta": -1.0}, "must be positive"),
        ({"loss": "chi_square", "expectile": 0.7}, r"critic 'v' with loss 'chi_square' 'expectile'"),
        ({"loss": "chisquare"}, r"regression 'chisquare' \(did you mean chi_square"),
    ],
)
def test_wrong_options_are_one_line(critic, message):
    with pytest.raises(UserError, match=message):
        make("critic", "v", **critic)

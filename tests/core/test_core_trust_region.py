"""The trust-region rule against problems whose solution is known: quadratics, tables, a Gaussian policy."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from unirl import make
from unirl.domain import DomainInfo
from unirl.errors import NonFiniteError, UserError
from unirl.method import Method
from unirl.optim import Update, make_update
from unirl.optim.trust_region import conjugate_gradient, trust_region_step

Loss = Callable[[Tensor], Tensor]
INFO = DomainInfo("control", "none", independent_decisions=True, target_entropy=-1.0, sample_unit="steps")


def exact(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Problem:
    """Losses of one vector, as an update meets them."""

    def __init__(self, start: Tensor, **losses: Loss) -> None:
        self.point = nn.Parameter(start.clone())
        self.losses = {name.replace("__", "/"): loss for name, loss in losses.items()}
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, names: Sequence[str]) -> dict[str, Tensor]:
        self.calls.append(tuple(names))
        values = {name: self.losses[name](self.point) for name in names}
        torch.stack(list(values.values())).sum().backward()
        return {name: value.detach() for name, value in values.items()}

    def step(self, rule: Any) -> dict[str, Tensor]:
        return rule(self, list(self.losses), [self.point], 1.0)


H = exact([2.0, 8.0])


def divergence(x: Tensor) -> Tensor:
    """1/2 x'Hx - .1 |x|^4: the quadratic is its second-order part, and a full step stays inside the ball."""
    return 0.5 * (H * x.square()).sum() - 0.1 * x.square().sum().square()


def test_the_natural_gradient_step_by_hand():
    # g = (-4, -8), H = diag(2, 8): H^-1 g = (-2, -1), g'H^-1 g = 16; sqrt(2 * .5 / 16) = 1/4: the step is (.5, .25)
    problem = Problem(exact([0.0, 0.0]), policy=lambda x: -4 * x[0] - 8 * x[1], policy__kl=divergence)
    values = problem.step(make("gradient", "trust_region", radius=0.5, damping=0.0, probe=1e-3))
    assert_close(problem.point.detach(), exact([0.5, 0.25]), atol=1e-6, rtol=0)
    assert_close(values["policy/kl"].item(), 0.5 - 0.1 * 0.3125**2, atol=1e-5, rtol=0)
    assert values["policy"].item() == 0.0
    assert problem.point.grad is None


def test_damping_adds_to_the_curvature():
    # H + 2 = diag(4, 10): H^-1 g = (-1, -.8), g'H^-1 g = 10.4
    problem = Problem(exact([0.0, 0.0]), policy=lambda x: -4 * x[0] - 8 * x[1], policy__kl=divergence)
    problem.step(make("gradient", "trust_region", radius=0.5, damping=2.0, probe=1e-3))
    assert_close(problem.point.detach(), math.sqrt(1 / 10.4) * exact([1.0, 0.8]), atol=1e-6, rtol=0)


def test_the_line_search_shortens_a_step_that_leaves_the_ball_and_gives_up_where_none_helps():
    # f = -x: the full step is 1; x^2 / 2 + x^4 is 1.5 there, .73 at .8 and .37 at .64, the first within 1/2
    problem = Problem(exact([0.0]), policy=lambda x: -x[0], policy__kl=lambda x: (x**2 / 2 + x**4).sum())
    problem.step(make("gradient", "trust_region", radius=0.5, damping=0.0, probe=1e-4))
    assert_close(problem.point.item(), 0.64, atol=1e-6, rtol=0)
    rises = Problem(exact([0.0]), policy=lambda x: -x[0] + 100 * x[0].abs(), policy__kl=lambda x: (x**2 / 2).sum())
    values = rises.step(make("gradient", "trust_region", radius=0.5, damping=0.0))
    assert rises.point.item() == 0.0
    assert values["policy/kl"].item() == 0.0


def test_of_a_table_it_is_the_advantage():
    # softmax of theta: F = diag(pi) - pi pi', grad E[A] = pi (A - E A), so F^-1 grad = A up to a constant; the step is
    # sqrt(2 delta / Var A) A
    old, advantage, radius = exact([0.5, 0.3, 0.2]), exact([1.0, 0.0, -1.0]), 1e-4
    surrogate, kl = make("objective", "mdpo"), make("regularizer", "kl", to="prev", estimator="exact", from_anchor=True)
    total = make("reduce", "sequence_sum")

    def batch(theta: Tensor):
        logp = theta.log_softmax(0)
        return rows(
            logp=logp[:, None],
            old_logp=old.log()[:, None],
            advantage=advantage[:, None],
            kl_from_anchor={"prev": (old * (old.log() - logp)).sum().expand(3, 1)},
            weight=old[:, None],
            divisor=exact(1.0),
            mask=torch.ones(3, 1, dtype=torch.bool),
        )

    problem = Problem(
        old.log(),
        policy=lambda theta: total(surrogate(batch(theta)), batch(theta)),
        policy__kl=lambda theta: total(kl(batch(theta)), batch(theta)),
    )
    values = problem.step(make("gradient", "trust_region", radius=radius, damping=0.0, probe=1e-3, shrink=0.99))
    step = problem.point.detach() - old.log()
    variance = (old * advantage.square()).sum() - (old * advantage).sum().square()
    expected = math.sqrt(2 * radius / variance) * (advantage - advantage.mean())
    assert_close(step - step.mean(), expected, atol=1e-6, rtol=0.02)
    assert 0.98 * radius < values["policy/kl"].item() <= radius


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (-0.6, (0.6, 0.8)),  # x1 <= .6 on the unit circle
        (0.0, (0.0, 1.0)),
        (0.6, (-0.6, 0.8)),  # exceeded, and can be met
        (1.5, (-1.0, 0.0)),  # cannot be met: straight down the cost
        (-0.9, (math.sqrt(0.5), math.sqrt(0.5))),  # does not bind
        (-2.0, (math.sqrt(0.5), math.sqrt(0.5))),  # holds in the whole ball
    ],
)
def test_the_constrained_step_by_hand(cost, expected):
    # minimise -x1 - x2 within the unit circle (delta = 1/2, H = 1), with x1 + cost <= 0
    gradients = [exact([-1.0, -1.0]), exact([1.0, 0.0])]
    step = trust_region_step(gradients, gradients, radius=0.5, cost=cost)
    assert_close(step, exact(expected), atol=1e-6, rtol=0)


numbers = st.floats(-2, 2).map(lambda value: round(value, 2))


@settings(max_examples=50)
@given(
    g=st.tuples(numbers, numbers).filter(lambda v: math.hypot(*v) > 0.1),
    b=st.tuples(numbers, numbers).filter(lambda v: math.hypot(*v) > 0.1),
    scale=st.tuples(st.floats(0.5, 4), st.floats(0.5, 4)),
    cost=numbers,
)
def test_no_allowed_point_of_the_ball_is_better(g, b, scale, cost):
    g, b, scale, radius = exact(g), exact(b), exact(scale), 0.5
    step = trust_region_step([g, b], [g / scale, b / scale], radius, cost)
    assert 0.5 * (scale * step.square()).sum() <= radius * (1 + 1e-6)
    angle = torch.linspace(0, 2 * math.pi, 400, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], -1) * (2 * radius / scale).sqrt()
    ball = torch.cat([share * circle for share in (0.0, 0.25, 0.5, 0.75, 1.0)])
    allowed = ball[ball @ b + cost <= 0]
    if cost**2 / (b.square() / scale).sum() < 2 * radius * (1 - 1e-6):
        assert b @ step + cost <= 1e-6
        if len(allowed):
            assert g @ step <= (allowed @ g).min() + 1e-6
    elif cost > 0:
        assert b @ step <= (ball @ b).min() + 1e-6


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_conjugate_gradients_solve_a_system_in_as_many_steps_as_it_has_unknowns(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    matrix, target = root @ root.T + torch.eye(4), torch.randn(4, generator=generator, dtype=torch.float64)
    assert_close(conjugate_gradient(lambda v: matrix @ v, target, 4), torch.linalg.solve(matrix, target))
    assert conjugate_gradient(lambda v: matrix @ v, torch.zeros(4), 4).tolist() == [0.0] * 4


def test_the_rule_holds_a_step_to_the_cost():
    # the constrained step by hand, by the rule: x1 <= .6 within the unit circle
    problem = Problem(
        exact([0.0, 0.0]),
        policy=lambda x: -x[0] - x[1],
        policy__kl=lambda x: 0.5 * x.square().sum() - 0.01 * x.square().sum().square(),
        policy__cost=lambda x: x[0] - 0.6 - 1e-4 * x[1],
    )
    values = problem.step(make("gradient", "trust_region", radius=0.5, damping=0.0, probe=1e-4))
    assert_close(problem.point.detach(), exact([0.6, 0.8]), atol=1e-3, rtol=0)
    assert_close(values["policy/cost"].item(), -0.6)


def test_losses_of_other_parameters_get_their_gradients():
    rule = make("gradient", "trust_region")
    problem = Problem(exact([1.0, 1.0]), value=lambda x: (x * exact([3.0, 4.0])).sum())
    problem.step(rule)
    assert problem.point.grad.tolist() == [3.0, 4.0]
    other = nn.Parameter(exact(0.0))
    mixed = Problem(
        exact([0.0, 0.0]), policy=lambda x: -x.sum(), policy__kl=divergence, temperature=lambda x: 2.0 * other
    )
    mixed.step(rule)
    assert (mixed.point.grad, other.grad.item()) == (None, 2.0)


def test_a_gradient_that_is_no_number_is_reported_and_nothing_moves():
    problem = Problem(exact([0.0, 0.0]), policy=lambda x: x[0].sqrt() * 0 + x[1], policy__kl=divergence)
    parameters = {"policy": [problem.point], "policy/kl": [problem.point]}
    update = make_update({"name": "adam", "gradient": "trust_region"}, parameters)
    assert isinstance(update, Update)
    with pytest.raises(NonFiniteError):
        update(problem)
    assert problem.point.tolist() == [0.0, 0.0]


def test_it_needs_a_constraint_to_hold_the_step_to():
    problem = Problem(exact([0.0, 0.0]), policy=lambda x: -x.sum())
    with pytest.raises(UserError, match="needs the method's `constraints"):
        problem.step(make("gradient", "trust_region"))


CONFIG = {
    "objective": {"name": "mdpo"},
    "constraints": {"kl": {"name": "kl", "to": "prev", "estimator": "exact", "from_anchor": True}},
    "anchors": {"prev": {"every": 1}},
}


def test_constraints_are_losses_of_the_policy_that_an_update_sees_apart():
    method = Method.from_config(CONFIG, INFO)
    assert method.losses_in_order == ("policy", "policy/kl")
    assert method.differentiates(["policy/kl"]) == {"kl_from_anchor.prev"}
    assert method.differentiates(["policy"]) == {"logp"}
    batch = rows(
        logp=[[0.1, 0.2]], old_logp=[[0.0, 0.0]], advantage=[[1.0, -1.0]], kl_from_anchor={"prev": [[0.3, 0.5]]}
    )
    losses = method.losses(batch, method.losses_in_order)
    assert_close(losses["policy/kl"].item(), 0.4)
    assert_close(losses["policy"].item(), (math.exp(0.2) - math.exp(0.1)) / 2)
    assert set(method.losses(batch, ["policy"])) == {"policy"}


def test_a_constraint_needs_its_anchor():
    with pytest.raises(UserError, match="regularizer 'kl' needs the anchor 'prev'"):
        Method.from_config({**CONFIG, "anchors": {}}, INFO)


@pytest.mark.parametrize("settings", [{"radius": 0.0}, {"tries": 0}, {"damping": -1.0}, {"shrink": 1.0}])
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(UserError, match="gradient 'trust_region'"):
        make("gradient", "trust_region", **settings)


def test_divergence_from_the_anchor_of_its_own_decisions():
    # d = log pi - log anchor = .1 and -.2: k1 -d, k2 d^2 / 2, k3 e^d - 1 - d
    batch = rows(logp=[[-1.0, -1.2]], anchor_logp={"prev": [[-1.1, -1.0]]})

    def penalty(estimator: str) -> Tensor:
        return make("regularizer", "kl", to="prev", estimator=estimator, from_anchor=True)(batch)

    assert_close(penalty("k1"), exact([[-0.1, 0.2]]))
    assert_close(penalty("k2"), exact([[0.005, 0.02]]))
    assert_close(penalty("k3"), exact([[math.exp(0.1) - 1.1, math.exp(-0.2) - 0.8]]))
    with pytest.raises(UserError, match="from_anchor=true"):
        make("regularizer", "kl", estimator="k3", weighted=True, from_anchor=True)


def test_the_sampled_divergence_has_the_fisher_information_as_its_second_derivative():
    # one action of a Gaussian with mean theta, std 1: (d log pi / d theta)^2 = (a - theta)^2 = .49
    theta = exact(0.3).requires_grad_()
    logp = torch.distributions.Normal(theta, 1.0).log_prob(exact([[1.0]]))
    batch = rows(logp=logp, anchor_logp={"prev": logp.detach()})
    value = make("regularizer", "kl", to="prev", estimator="k3", from_anchor=True)(batch).sum()
    (slope,) = torch.autograd.grad(value, theta, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, theta)
    assert_close((value.item(), slope.item(), curvature.item()), (0.0, 0.0, 0.49))

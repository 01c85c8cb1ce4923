"""H2O [175]: the catalogue's numbers, and what the parts become where simulator and world agree."""

import math
from typing import Any

import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from unirl import make
from unirl.control import ControlDomain
from unirl.domain import Requirements
from unirl.errors import UserError

GAPS, VALUES = [0.1, 1.0, 2.0], [1.0, 2.0, 3.0]
SIMULATED = {"env": "unirl/PointMass-v0", "simulator": {"env_kwargs": {"speed": 0.5}}}
SMALL = {"hidden": [16], "activation": "tanh"}


def mixed(q, gaps=GAPS, real_q=0.0, **fields):
    """Three simulated decisions and one recorded one, a single critic."""
    values = tensor([[[value] for value in q] + [[real_q]]], dtype=torch.float64, requires_grad=True)
    gap = tensor([[value] for value in gaps] + [[0.0]], dtype=torch.float64)
    mask = torch.ones(len(gap), 1, dtype=torch.bool)
    source = tensor([0] * len(q) + [2])
    batch = rows(mask=mask, q_data=values, source=source, estimate={"dynamics_gap": gap, **fields})
    return batch, values


def penalty(batch, **options):
    return make("reduce", "token_mean")(make("critic", "dynamics_gap", **options).loss(batch), batch)


def classifier(p_transition: float, p_pair: float):
    """A classifier that gives these probabilities of being real everywhere."""
    domain = ControlDomain(SIMULATED, SMALL)
    domain.build(Requirements(models={"dynamics_classifier": {"noise": 0.0}}))
    model: Any = domain.models["dynamics_classifier"]
    pair = math.log(p_pair / (1 - p_pair))
    transition = math.log(p_transition / (1 - p_transition)) - pair
    for network, odds in ((model.of_pair, pair), (model.of_transition, transition)):
        for parameter in network.parameters():
            parameter.data.zero_()
        # 2 tanh(f) - 2 tanh(-f) = odds
        network.biases[-1].data = tensor([math.atanh(odds / 4), -math.atanh(odds / 4)])
    return domain, model


NOWHERE = (torch.zeros(1, 1, 2),) * 3


def test_the_ratio_of_the_dynamics():
    # (.3 * .4) / (.7 * .6) = .2857143; its root .5345225; -log: 1.2527630
    _, model = classifier(0.3, 0.6)
    log_ratio = model.log_ratio(*NOWHERE).item()
    assert math.exp(log_ratio) == pytest.approx(0.2857143, abs=5e-8)
    assert math.exp(log_ratio / 2) == pytest.approx(0.5345225, abs=5e-8)
    assert -log_ratio == pytest.approx(1.2527630, abs=5e-7)
    probabilities = model.logits(*NOWHERE).softmax(-1).squeeze()
    assert_close(probabilities, tensor([[0.6, 0.4], [0.3, 0.7]]))


def test_the_weighted_soft_maximum_and_its_gradient():
    # u / 3.1 = .032258, .322581, .645161;  log sum w e^Q = 2.7362919, gradient softmax(Q + log w)
    batch, values = mixed(VALUES)
    weights = tensor(GAPS, dtype=torch.float64) / 3.1
    assert_close(weights, tensor([0.032258, 0.322581, 0.645161], dtype=torch.float64), atol=5e-7, rtol=0)
    loss = penalty(batch)
    assert loss.item() == pytest.approx(2.7362919, abs=5e-8)
    loss.backward()
    wanted = torch.softmax(tensor(VALUES, dtype=torch.float64) + weights.log(), 0)
    assert_close(values.grad[0, :3, 0], wanted)
    assert_close(values.grad[0, 3, 0].item(), -1.0)  # the recorded value is raised


def test_the_variant_with_a_mean():
    # .032258 + .645161 + 1.935484 = 2.612903
    batch, values = mixed(VALUES)
    loss = penalty(batch, variant="mean")
    assert loss.item() == pytest.approx(2.6129032, abs=5e-8)
    loss.backward()
    assert_close(values.grad[0, :3, 0], tensor(GAPS, dtype=torch.float64) / 3.1)


@settings(max_examples=30)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6), st.floats(0.01, 10.0))
def test_the_variants_agree_for_equal_values_and_are_ordered_otherwise(values, gap):
    gaps = [gap * (i + 1) for i in range(len(values))]
    soft, mean = (penalty(mixed(values, gaps)[0], variant=name).item() for name in ("log_sum_exp", "mean"))
    assert soft >= mean - 1e-9
    same = mixed([values[0]] * len(values), gaps)[0]
    assert penalty(same).item() == pytest.approx(values[0], abs=1e-9)
    assert penalty(same, variant="mean").item() == pytest.approx(values[0], abs=1e-9)


@settings(max_examples=30)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6), st.floats(-5, 5))
def test_with_equal_gaps_it_is_the_penalty_of_cql_over_the_simulated_batch(values, real_q):
    # log mean e^Q - Q_real
    batch, _ = mixed(values, [1e-20] * len(values), real_q)
    wanted = torch.logsumexp(tensor(values, dtype=torch.float64), 0) - math.log(len(values)) - real_q
    assert penalty(batch).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_the_penalty_is_bounded_and_needs_both_sources():
    batch, values = mixed([5000.0], [1.0])
    loss = penalty(batch)
    assert loss.item() == 1000.0
    loss.backward()
    assert not values.grad.any()
    assert penalty(batch[:1]).item() == penalty(batch[1:]).item() == 0.0


def transitions(ratio, values=None):
    # errors 1, 2 (simulated) and 3 (recorded), whose ratio is not read
    return rows(
        mask=torch.ones(3, 1, dtype=torch.bool),
        q_data=torch.zeros(2, 3, 1) if values is None else values,
        next_q=torch.zeros(2, 3, 1),
        reward=tensor([[-1.0], [-2.0], [-3.0]]),
        terminated=torch.zeros(3, 1, dtype=torch.bool),
        source=tensor([0, 0, 2]),
        estimate={"dynamics_ratio": tensor(ratio)[:, None]},
    )


def td(batch, **options):
    return make("reduce", "token_mean")(make("critic", "dynamics_q", **options).loss(batch), batch)


def test_simulated_errors_are_weighted_and_each_source_is_averaged_apart():
    # two heads: 2 * 9 recorded; simulated 2 * (.5 * 1 + 1 * 4) / 2 (a ratio of 3 counts as 1)
    assert td(transitions([0.5, 3.0, 77.0])).item() == pytest.approx(18.0 + 4.5)
    # ratios below the clip: 1e-5 each
    assert td(transitions([0.0, 0.0, 0.0])).item() == pytest.approx(18.0 + 5e-5)


def test_gradients_of_the_weighted_errors():
    values = torch.zeros(2, 3, 1, requires_grad=True)
    td(transitions([0.5, 3.0, 77.0], values)).backward()
    # 2 w e / M for every head: .5 * 2 / 2, 2 * 2 / 2, 2 * 3
    assert_close(values.grad, tensor([[0.5], [2.0], [6.0]]).expand(2, 3, 1))


@settings(max_examples=30)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_with_equal_dynamics_and_equal_shares_it_is_twice_the_usual_regression(rewards):
    batch = rows(
        mask=torch.ones(4, 1, dtype=torch.bool),
        q_data=torch.zeros(2, 4, 1),
        next_q=torch.zeros(2, 4, 1),
        reward=tensor(rewards)[:, None],
        terminated=torch.zeros(4, 1, dtype=torch.bool),
        source=tensor([0, 0, 2, 2]),
        estimate={"dynamics_ratio": torch.ones(4, 1)},
    )
    usual = make("reduce", "token_mean")(make("critic", "q").loss(batch), batch)
    assert td(batch).item() == pytest.approx(2 * usual.item(), rel=1e-5, abs=1e-9)


def test_the_classifiers_are_trained_by_both_cross_entropies():
    # pair: p(real) = .6, transition: .3. Recorded: -log .6 - log .3; simulated: -log .4 - log .7
    pair, transition = math.log(0.6 / 0.4) / 2, math.log(0.3 / 0.7) / 2
    logits = tensor([[pair, -pair], [transition, -transition]]).expand(2, 1, 2, 2).clone().requires_grad_()
    batch = rows(mask=torch.ones(2, 1, dtype=torch.bool), source=tensor([2, 0]), model={"source_logits": logits})
    loss = make("critic", "dynamics_classifier").loss(batch)
    assert_close(loss, tensor([[-math.log(0.6 * 0.3)], [-math.log(0.4 * 0.7)]]))
    loss.sum().backward()
    # p - 1(label): recorded
    assert_close(logits.grad[0, 0], tensor([[0.6 - 1, 0.4], [0.3 - 1, 0.7]]))
    assert_close(logits.grad[1, 0], tensor([[0.6, 0.4 - 1], [0.3, 0.7 - 1]]))


def scored(domain, batch):
    return domain.score(batch, ["estimate.dynamics_ratio", "estimate.dynamics_gap"]).estimate


def test_classifiers_that_see_no_difference_leave_the_floor_and_a_ratio_of_one():
    domain, _ = classifier(0.5, 0.5)
    batch = domain.rollout(8, unit="segment").replace(source=tensor([0]))
    found = scored(domain, batch)
    assert_close(found["dynamics_ratio"], torch.ones(1, 8))
    assert_close(found["dynamics_gap"], torch.full((1, 8), 1e-20), atol=0, rtol=1e-6)


def test_the_gap_is_that_of_the_ratio_and_zero_in_recorded_rows():
    domain, _ = classifier(0.3, 0.6)
    batch = domain.rollout(4, unit="segment").decisions().replace(source=tensor([0, 2, 0, 2]))
    found = scored(domain, batch)
    assert_close(found["dynamics_gap"], tensor([[1.2527630], [0.0], [1.2527630], [0.0]]))
    assert_close(found["dynamics_ratio"], torch.full((4, 1), 0.2857143))


def test_trained_classifiers_find_where_the_dynamics_differ():
    # the simulator moves five times as far: after one action the two are told apart by how far the point has gone
    torch.manual_seed(0)
    single = {"max_episode_steps": 1}  # all decisions from the same distribution of states
    task = {"env": "unirl/PointMass-v0", "env_kwargs": single, "simulator": {"env_kwargs": {**single, "speed": 0.5}}}
    domain = ControlDomain(task, {"hidden": [32], "activation": "relu"})
    domain.build(Requirements(models={"dynamics_classifier": {}}))
    real = ControlDomain({"env": "unirl/PointMass-v0", "env_kwargs": single}, SMALL)
    real.build(Requirements())
    batches = [world.rollout(1024, unit="segment", uniform=True).decisions() for world in (domain, real)]
    batch = type(batches[0]).cat(
        [b.replace(source=torch.full((1024,), s)) for b, s in zip(batches, (0, 2), strict=True)]
    )
    part, reduce = make("critic", "dynamics_classifier"), make("reduce", "token_mean")
    optimizer = torch.optim.Adam(domain.parameters("dynamics_classifier"), 1e-2)
    before = scored(domain, batch)
    for _ in range(150):
        loss = reduce(part.loss(domain.score(batch, ["model.source_logits"])), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = scored(domain, batch)
    moved = (batch.inputs["next_observation"] - batch.inputs["observation"]).norm(dim=-1).squeeze()
    far = (batch.source == 0) & (moved > 0.3)
    assert found["dynamics_ratio"][far].median() < 0.2 < before["dynamics_ratio"][far].median()
    assert found["dynamics_ratio"][batch.source == 2].median() > 1.0


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("dynamics_gap", {"variant": "sum"}, "unknown variant of critic 'dynamics_gap' 'sum'"),
        ("dynamics_q", {"ratio_clip": [1.0, 0.5]}, "ratio_clip is"),
        ("dynamics_q", {"targt": "min"}, "targt"),
    ],
)
def test_options_that_do_not_exist_are_one_line(part, options, message):
    with pytest.raises(UserError, match=message):
        make("critic", part, **options)


def test_a_task_without_a_simulator_is_one_line():
    domain = ControlDomain({"env": "unirl/PointMass-v0"}, SMALL)
    with pytest.raises(
        UserError, match=r"H2O learns from recorded data and a simulator beside it: give 'task\.simulator="
    ):
        domain.build(Requirements(models={"dynamics_classifier": {}}))

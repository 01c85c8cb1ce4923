"""The domain as a whole: protocol, state, evaluation, targets, configuration."""

from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml
from control_worlds import CLOCK, SMALL
from torch.testing import assert_close

from unirl.control import ControlDomain
from unirl.domain import Domain, Opponent, QSpec, Requirements, ValueSpec
from unirl.errors import RunWarning, UserError
from unirl.trainer.statefile import load_state, save_state

EVERYTHING = Requirements(value=ValueSpec(), q=QSpec(target_policy=True), anchors=frozenset({"ref"}))


def hopper(**options) -> ControlDomain:
    domain = ControlDomain({"env": "Hopper-v5"}, SMALL, **options)
    domain.build(EVERYTHING)
    return domain


def same(a, b) -> bool:
    left, right = dict(a.to_tensordict().flatten_keys().items()), dict(b.to_tensordict().flatten_keys().items())
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_control_domain_is_a_domain():
    assert isinstance(hopper(), Domain)


@pytest.mark.parametrize("env", ["Hopper-v5", "CartPole-v1", "unirl-test/Clock-v0"])
def test_a_saved_state_continues_bit_for_bit(env, tmp_path):
    def new(seed: int) -> ControlDomain:
        domain = ControlDomain(
            {"env": env}, SMALL, seed=seed, envs=2, normalize_observation=True, normalize_reward=True
        )
        domain.build(EVERYTHING)
        return domain

    def go_on(domain: ControlDomain) -> list:
        segment = domain.score(domain.rollout(30, unit="segment"), {"next_q", "value"})
        explored = domain.rollout(10, unit="segment", uniform=True)
        return [segment, explored, domain.rollout(4, group_size=2, opponent=Opponent("ref", 0.5))]

    domain = new(seed=0)
    go_on(domain)
    with torch.no_grad():
        next(iter(domain.policy.parameters())).add_(0.1)
    save_state(domain.state_dict(), tmp_path)
    expected = go_on(domain)

    for other in (new(seed=9), domain):
        other.load_state_dict(load_state(tmp_path))
        assert all(same(a, b) for a, b in zip(go_on(other), expected, strict=True))
    assert not same(go_on(new(seed=9))[0], expected[0])


def test_a_saved_state_does_not_change_with_training():
    domain = hopper()
    domain.rollout(5, unit="segment")
    state = domain.state_dict()
    saved = state["networks"]["policy"]
    before = {name: tensor.clone() for name, tensor in saved.items()}
    with torch.no_grad():
        for parameter in domain.policy.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(saved[name], before[name]) for name in before)


def test_a_world_that_cannot_be_saved_starts_a_new_episode_and_says_so(tmp_path):
    domain = ControlDomain({"env": "unirl-test/Opaque-v0"}, SMALL, normalize_observation=False)
    domain.rollout(4, unit="segment")
    save_state(domain.state_dict(), tmp_path)
    with pytest.warns(RunWarning, match="state of unirl-test/Opaque-v0 cannot be written to a file: 1 running"):
        domain.load_state_dict(load_state(tmp_path))
    assert domain.rollout(2, unit="segment").inputs["observation"][0, :, 0].tolist() == [0, 1]


def test_the_same_seed_gives_the_same_networks_and_leaves_torch_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, second, other = hopper(seed=1), hopper(seed=1), hopper(seed=2)
    assert torch.equal(torch.rand(1), expected)
    weights = [domain.policy.state_dict()["network.weights.0"] for domain in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_evaluation_does_not_disturb_training():
    quiet, disturbed = (
        ControlDomain({"env": "Hopper-v5"}, SMALL, normalize_observation=True, normalize_reward=True) for _ in range(2)
    )
    for domain in (quiet, disturbed):
        domain.rollout(20, unit="segment")
    disturbed.evaluate(3)
    disturbed.evaluate(2, sampled=True)
    assert same(quiet.rollout(20, unit="segment"), disturbed.rollout(20, unit="segment"))
    assert same(quiet.rollout(2), disturbed.rollout(2))


def test_evaluation_repeats_and_depends_on_the_seed_only():
    domain = hopper()
    first = domain.evaluate(4)
    domain.rollout(30, unit="segment")
    assert domain.evaluate(4) == first == hopper().evaluate(4)
    assert hopper(seed=1).evaluate(4) != first
    assert domain.evaluate(4, sampled=True) != first
    assert domain.evaluate(4, sampled=True) == domain.evaluate(4, sampled=True)


def test_evaluation_reports_raw_returns():
    # each episode pays 1 + 2 + 3; 100 (6 - 2) / (10 - 2) = 50
    domain = ControlDomain({**CLOCK, "reference_score": {"random": 2.0, "expert": 10.0}}, SMALL, normalize_reward=True)
    assert domain.evaluate(2) == {"score": 6.0, "score_std": 0.0, "length": 3.0, "normalized_score": 50.0}
    assert "normalized_score" not in ControlDomain(CLOCK, SMALL).evaluate(1)
    with pytest.raises(UserError, match="at least 1 episode"):
        domain.evaluate(0)


def test_hopper_has_reference_scores():
    assert "normalized_score" in hopper().evaluate(1)


def test_act_gives_the_mode_in_the_environments_units():
    # Clock's bounds are [-2, 6]; a mean of 0.5 is 2 + 4 * 0.5
    domain = ControlDomain(CLOCK, SMALL)
    with torch.no_grad():
        domain.policy.mean.weights[-1].zero_()
        domain.policy.mean.biases[-1].fill_(0.5)
    np.testing.assert_allclose(domain.act(np.zeros((2, 2))), [[4.0], [4.0]])


def test_targets_move_by_tau():
    domain = hopper()
    start = domain.target_q.weights[0].clone()
    with torch.no_grad():
        domain.q.weights[0].add_(1.0)
        next(iter(domain.policy.parameters())).add_(1.0)
    policy_start = next(iter(domain.target_policy.parameters())).clone()
    domain.update_targets()
    assert_close(domain.target_q.weights[0], start + 0.005)
    assert_close(next(iter(domain.target_policy.parameters())), policy_start + 0.005)


def test_anchors_decay_towards_the_policy():
    domain = hopper()
    start = next(iter(domain.policy.parameters())).detach().clone()
    with torch.no_grad():
        next(iter(domain.policy.parameters())).add_(1.0)
    anchor = next(iter(domain.anchors["ref"].parameters()))
    domain.copy_policy("ref", decay=0.75)
    assert_close(anchor, start + 0.25)
    domain.copy_policy("ref")
    assert torch.equal(anchor, next(iter(domain.policy.parameters())))
    with pytest.raises(ValueError, match="anchor 'old' was not built"):
        domain.copy_policy("old")


def test_parameters_by_role():
    domain = ControlDomain(CLOCK, SMALL)
    domain.build(Requirements(value=ValueSpec()))
    assert domain.parameters("value")[0].shape == (2, 8)
    assert domain.parameters("q") == domain.parameters("temperature") == []


@pytest.mark.parametrize(
    ("requirements", "env", "kind"),
    [
        (Requirements(), "Hopper-v5", "gaussian"),
        (Requirements(q=QSpec()), "Hopper-v5", "tanh_gaussian"),
        (Requirements(q=QSpec(), policy="deterministic"), "Hopper-v5", "deterministic"),
        (Requirements(q=QSpec()), "CartPole-v1", "categorical"),
    ],
)
def test_the_policy_suits_the_method_and_the_actions(requirements, env, kind):
    domain = ControlDomain({"env": env}, SMALL)
    domain.build(requirements)
    assert domain.policy_kind == kind


@pytest.mark.parametrize(
    ("env", "policy", "message"),
    [
        ("CartPole-v1", "gaussian", "policy 'gaussian' needs an environment with continuous actions"),
        ("Hopper-v5", "categorical", "policy 'categorical' needs an environment with choices"),
        ("Hopper-v5", "gausian", r"unknown policy \(model.policy\) 'gausian' \(did you mean gaussian"),
    ],
)
def test_policies_that_do_not_fit_are_refused(env, policy, message):
    with pytest.raises(UserError, match=message):
        ControlDomain({"env": env}, {**SMALL, "policy": policy})


def test_normalisation_is_off_where_observations_are_used_again():
    domain = ControlDomain(CLOCK, SMALL)
    assert domain.observation_normalizer.mode == "running"
    assert domain.reward_scaler.enabled
    domain.build(Requirements(q=QSpec()))
    assert domain.observation_normalizer.mode == "off"
    assert not domain.reward_scaler.enabled
    asked = ControlDomain(CLOCK, SMALL, normalize_observation=True)
    asked.build(Requirements(q=QSpec()))
    assert asked.observation_normalizer.mode == "running"


def test_statistics_of_a_dataset_are_used_in_roll_outs_and_evaluation():
    domain = ControlDomain(CLOCK, SMALL)
    domain.build(Requirements(q=QSpec()))
    domain.set_observation_statistics(np.array([1.0, 0.0]), np.array([2.0, 1.0]))
    seen = domain.rollout(3, unit="segment").inputs["observation"][0, :, 0]
    assert_close(seen, torch.tensor([-0.5, 0.0, 0.5]))


def control_tasks() -> list:
    files_of_tasks = sorted(
        (p for p in (files("unirl.configs") / "task").iterdir() if p.name.endswith(".yaml")), key=str
    )
    tasks = [(path.name, yaml.safe_load(path.read_text())) for path in files_of_tasks]
    return [pytest.param(task, id=name) for name, task in tasks if task["domain"] == "control"]


@pytest.mark.parametrize("task", control_tasks())
def test_control_tasks_name_environments_that_exist(task):
    domain = ControlDomain(task, SMALL)
    assert domain.rollout(2, unit="segment").mask.shape == (1, 2)
    assert {"online", "replay", "offline", "preference"} <= set(task["budget"])


def test_half_precision_is_for_methods_with_an_action_value_critic_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr("unirl.control.domain.native_bfloat16", lambda: True)
    kept = {}
    for needs in (Requirements(value=ValueSpec()), Requirements(q=QSpec())):
        for precision in ("auto", "float32", "bfloat16"):
            domain = ControlDomain({"env": "Hopper-v5"}, {"hidden": [16, 16]}, precision=precision)
            domain.build(needs)
            network = domain.value if domain.q is None else domain.q
            kept[needs.q is None, precision] = network.half_precision
    assert kept == {
        (True, "auto"): False, (True, "float32"): False, (True, "bfloat16"): True,
        (False, "auto"): True, (False, "float32"): False, (False, "bfloat16"): True,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"unknown domain\.precision 'half'"):
        ControlDomain({"env": "Hopper-v5"}, {}, precision="half")

"""Changed physics: what changes, by how much, and that nothing else does."""

import numpy as np
import pytest
from control_worlds import SMALL
from test_control_snapshot import actions_for, play

from unirl.control import ControlDomain
from unirl.control.envs import make_env
from unirl.control.snapshot import Snapshot, restore, snapshot
from unirl.errors import UserError
from unirl.trainer.statefile import load_state, save_state

ALL = {
    "gravity": 1.3,
    "friction": 0.3,
    "mass": {"torso": 1.5},
    "damping": 2.0,
    "strength": 0.8,
    "actuator_noise": 0.2,
    "joint_noise": 0.5,
}


def model_of(perturb, name="Hopper-v5"):
    return make_env({"env": name, "perturb": perturb}).unwrapped.model


def body(model, name):
    return [model.body(i).name for i in range(model.nbody)].index(name)


def test_factors_multiply_what_the_model_says():
    plain, changed = model_of({}), model_of({**ALL, "mass": {"torso": 1.5, "foot": 0.5}})
    assert changed.opt.gravity[2] == pytest.approx(-9.81 * 1.3)
    np.testing.assert_allclose(changed.geom_friction, 0.3 * plain.geom_friction)
    np.testing.assert_allclose(changed.dof_damping, 2.0 * plain.dof_damping)
    np.testing.assert_allclose(changed.actuator_gear, 0.8 * plain.actuator_gear)
    ratio = changed.body_mass[1:] / plain.body_mass[1:]  # torso, thigh, leg, foot
    np.testing.assert_allclose(ratio, [1.5, 1.0, 1.0, 0.5])
    np.testing.assert_allclose(changed.body_inertia[1], 1.5 * plain.body_inertia[1])


def test_what_mujoco_derives_from_masses_follows():
    plain, changed = model_of({}), model_of({"mass": 2.0})
    assert changed.body_subtreemass[0] == pytest.approx(2.0 * plain.body_subtreemass[0])
    # what is heavier moves less
    assert (changed.body_invweight0[1:] < plain.body_invweight0[1:]).all()


def test_gravity_can_be_given_in_metres_per_second_squared():
    assert model_of({"gravity": {"absolute": 1.62}}).opt.gravity.tolist() == pytest.approx([0, 0, -1.62])
    assert model_of({"gravity.absolute": 4.0}, "Reacher-v5").opt.gravity[2] == pytest.approx(-4.0)
    # a factor comes on top
    assert model_of({"gravity.absolute": 4.0, "gravity": 0.5}).opt.gravity[2] == pytest.approx(-2.0)


def test_one_joint_one_geom_and_one_actuator_can_be_named():
    plain = model_of({}, "HalfCheetah-v5")
    changed = model_of({"damping": {"bthigh": 3}, "friction": {"floor": 0}, "strength.bfoot": 0.5}, "HalfCheetah-v5")
    # degrees of freedom: rootx, rootz, rooty, bthigh, ...
    assert changed.dof_damping[3] == 3 * plain.dof_damping[3] and changed.dof_damping[4] == plain.dof_damping[4]
    assert changed.geom_friction[0].tolist() == [0, 0, 0] and (changed.geom_friction[1:] > 0).all()
    gear = changed.actuator_gear[:, 0] / plain.actuator_gear[:, 0]
    assert gear.tolist() == [1, 1, 0.5, 1, 1, 1]


@pytest.mark.parametrize("name", ["Hopper-v5", "Humanoid-v5"])
def test_factors_of_one_change_nothing_to_the_last_bit(name):
    ones = {"gravity": 1, "friction": 1.0, "mass": 1.0, "damping": 1.0, "strength": 1.0, "actuator_noise": 0.0}
    seen = []
    for perturb in (None, ones):
        env = make_env({"env": name, "perturb": perturb})
        env.reset(seed=3)
        seen.append(play(env, actions_for(env, 40)))
    assert np.array_equal(*seen)


@pytest.mark.parametrize("change", [{"gravity": 2.0}, {"mass.torso": 1.5}, {"friction": 0.3}, {"joint_noise": 1.0}])
def test_every_change_is_felt(change):
    seen = []
    for perturb in ({}, change):
        env = make_env({"env": "Hopper-v5", "perturb": perturb})
        env.reset(seed=0)
        seen.append(play(env, 0.1 * actions_for(env, 60)))
    assert not np.array_equal(*seen)


def test_noise_of_the_actuators_is_in_units_of_the_half_range_and_clipped():
    env = make_env({"env": "InvertedPendulum-v5", "perturb": {"actuator_noise": 0.1}})  # controls in [-3, 3]
    taken = []
    env.reset(seed=0)
    for _ in range(400):
        env.step(np.zeros(1, dtype=np.float32))
        taken.append(float(env.unwrapped.data.ctrl[0]))
    # 400 draws of N(0, .3): the standard deviation is known to 3.5 % (one sigma)
    assert np.std(taken) == pytest.approx(0.3, rel=0.14) and abs(np.mean(taken)) < 0.06
    loud = make_env({"env": "InvertedPendulum-v5", "perturb": {"actuator_noise": 50.0}})
    loud.reset(seed=0)
    loud.step(np.zeros(1, dtype=np.float32))
    assert abs(float(loud.unwrapped.data.ctrl[0])) == 3.0


def test_noise_on_joints_acts_where_actuators_do():
    env = make_env({"env": "Hopper-v5", "perturb": {"joint_noise": 2.0}})
    env.reset(seed=0)
    env.step(np.zeros(3, dtype=np.float32))
    force = env.unwrapped.data.qfrc_applied
    assert force[:3].tolist() == [0, 0, 0] and (force[3:] != 0).all()  # rootx, rootz and rooty are free


def test_a_perturbed_world_continues_a_snapshot_bit_for_bit(tmp_path):
    task = {"env": "Hopper-v5", "perturb": ALL}
    env = make_env(task)
    env.reset(seed=3)
    before, after = np.split(actions_for(env, 60), [20])
    play(env, before)
    saved = snapshot(env)
    expected = play(env, after)
    save_state({"env": saved.state_dict()}, tmp_path)
    other = make_env(task)
    other.reset(seed=4)
    again = Snapshot.from_state(load_state(tmp_path)["env"])
    assert np.array_equal(play(restore(other, again), after), expected)


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        ({"gravty": 2}, r"unknown quantity of perturb 'gravty' \(did you mean gravity"),
        ({"wind": 2}, "unknown quantity of perturb 'wind' .*known: actuator_noise, damping, friction, gravity"),
        ({"mass": {"tors": 2}}, r"mass.tors: the model has no body 'tors' \(did you mean torso\?\); its bodies: tor"),
        ({"damping.hip": 2}, "the model has no joint 'hip'; its joints: rootx, .*foot_joint$"),
        ({"strength.hip": 2}, "no actuator 'hip'; its actuators: none that has a name"),
        ({"gravity": -1}, "perturb.gravity is -1; give a number that is not negative"),
        ({"gravity": "big"}, "perturb.gravity is 'big'"),
        ({"mass": 0}, "a mass must be positive"),
    ],
)  # fmt: skip
def test_a_perturbation_that_the_model_does_not_know_is_one_clear_line(perturb, message):
    with pytest.raises(UserError, match=message) as caught:
        model_of(perturb)
    assert "\n" not in str(caught.value)


def test_only_mujoco_can_be_perturbed():
    with pytest.raises(UserError, match="perturb changes MuJoCo models; CartPole-v1 has none"):
        make_env({"env": "CartPole-v1", "perturb": {"gravity": 2}})


HOPPER = {"env": "Hopper-v5"}


def test_evaluation_in_a_perturbed_world_leaves_the_domain_as_it_was():
    domain, other = ControlDomain(HOPPER, SMALL), ControlDomain(HOPPER, SMALL)
    plain = domain.evaluate(2)
    heavy = domain.evaluate_perturbed({"gravity": 3.0}, 2)
    assert heavy != plain and domain.evaluate(2) == plain and domain.evaluate_perturbed({}, 2) == plain
    assert heavy == ControlDomain({**HOPPER, "perturb": {"gravity": 3.0}}, SMALL).evaluate(2)
    a, b = domain.rollout(1), other.rollout(1)
    assert bool((a.inputs["observation"] == b.inputs["observation"]).all())


def test_what_is_asked_for_goes_before_what_the_task_says():
    trained = ControlDomain({**HOPPER, "perturb": {"gravity": 3.0, "mass": {"torso": 2.0}}}, SMALL)
    asked = trained.evaluate_perturbed({"gravity": 0.5}, 2)
    assert asked == ControlDomain(HOPPER, SMALL).evaluate_perturbed({"gravity": 0.5, "mass.torso": 2.0}, 2)


def test_roll_outs_happen_in_the_simulator_and_evaluations_in_the_world():
    simulated = ControlDomain({**HOPPER, "simulator": {"perturb": {"gravity": 3.0}}}, SMALL)
    world, moon = ControlDomain(HOPPER, SMALL), ControlDomain({**HOPPER, "perturb": {"gravity": 3.0}}, SMALL)
    assert simulated.evaluate(2) == world.evaluate(2) != moon.evaluate(2)
    for unit, count in (("episode", 1), ("segment", 20)):
        seen = [domain.rollout(count, unit=unit).inputs["next_observation"] for domain in (simulated, world, moon)]
        assert seen[0].shape == seen[2].shape and bool((seen[0] == seen[2]).all())
        assert seen[0].shape != seen[1].shape or not bool((seen[0] == seen[1]).all())


@pytest.mark.parametrize(
    ("simulator", "message"),
    [
        ({"gravity": 2}, r"unknown key of task.simulator 'gravity' \(known: env, env_kwargs, perturb\)"),
        ("heavy", "task.simulator is 'heavy'; it must be names and values, for example"),
        ({"env": "Walker2d-v5"}, r"task.simulator shows \(17,\) numbers and takes Box.*; Hopper-v5 shows \(11,\)"),
        ({"perturb": {"gravty": 2}}, "unknown quantity of perturb 'gravty'"),
    ],
)
def test_a_simulator_that_does_not_fit_is_one_clear_line(simulator, message):
    with pytest.raises(UserError, match=message):
        ControlDomain({**HOPPER, "simulator": simulator}, SMALL)

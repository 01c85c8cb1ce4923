import numpy as np
import pytest
import torch

from unirl.config import compose
from unirl.control import ControlDomain
from unirl.control.data.sb3 import SB3Policy
from unirl.domain import Opponent, Requirements
from unirl.errors import UserError
from unirl.run import build

stable_baselines3 = pytest.importorskip("stable_baselines3")
TASK = {"env": "InvertedPendulum-v5", "domain": "control"}
MODEL = {"hidden": [16], "activation": "tanh"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sb3")

    def save(algorithm, env="InvertedPendulum-v5"):
        path = folder / f"{algorithm}-{env}.zip"
        if not path.exists():
            options = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}
            getattr(stable_baselines3, algorithm)("MlpPolicy", env, **options).save(path)
        return str(path)

    return save


def domain_with(path, policy=None, **options):
    domain = ControlDomain(TASK, MODEL, normalize_observation=False, **options)
    domain.build(Requirements(given={"teacher": path}, policy=policy))
    return domain


@pytest.mark.parametrize(("algorithm", "policy"), [("PPO", "gaussian"), ("A2C", "gaussian"), ("SAC", "tanh_gaussian")])
def test_a_teachers_density_is_its_own_in_normalised_units(saved, algorithm, policy):
    path = saved(algorithm)
    domain = domain_with(path, policy)
    batch = domain.score(domain.rollout(4, unit="episode"), {"anchor_logp.teacher"})
    inputs = {name: batch.inputs[name][batch.mask] for name in ("observation", "action")}
    action = domain.actions.scale[0] + domain.actions.scale[1] * inputs["action"].numpy()  # bounds are -3 and 3
    theirs = SB3Policy(path).log_prob(inputs["observation"].numpy(), action.astype(np.float32)) + np.log(3.0)
    np.testing.assert_allclose(batch.anchor_logp["teacher"][batch.mask].numpy(), theirs, rtol=1e-3, atol=1e-3)


def test_a_teacher_plays_as_the_opponent(saved):
    domain = domain_with(saved("PPO"))
    opponent = Opponent(anchor="teacher", mixture=1.0, per_group=1)
    batch = domain.score(domain.rollout(4, group_size=2, opponent=opponent), {"anchor_logp.teacher"})
    theirs = (batch.source == 1)[:, None] & batch.mask
    assert torch.allclose(batch.behavior_logp[theirs], batch.anchor_logp["teacher"][theirs], atol=1e-5)


def test_a_policy_is_drawn_to_its_teacher(saved, tmp_path):
    words = ["method=mdpo", "task=inverted_pendulum", "iterations=6", "method.source.rows=512", "evaluations=0"]
    words += ["domain.normalize_observation=false", "domain.normalize_reward=false", f"out={tmp_path}"]
    words += ["method.regularizers.0.to=teacher", "method.regularizers.0.coef=1000.0", "method.update.lr=3e-3"]
    words += ["method.update.actor_every=1"]
    trainer = build(compose([*words, f"method.anchors={{teacher: {{file: '{saved('PPO')}'}}}}"]), None)
    batch = trainer.domain.rollout(512, unit="segment")

    def distance():
        with torch.no_grad():
            return trainer.domain.score(batch, {"anchor_kl.teacher"}).anchor_kl["teacher"].mean().item()

    before = distance()
    trainer.run()
    assert distance() < 0.2 * before


def test_a_teacher_for_another_task_is_refused(saved):
    with pytest.raises(UserError, match=r"acts on observations \(3,\)"):
        domain_with(saved("PPO", "Pendulum-v1"))


def test_a_teacher_needs_raw_observations(saved):
    domain = ControlDomain(TASK, MODEL, normalize_observation=True)
    with pytest.raises(UserError, match=r"domain\.normalize_observation=false"):
        domain.build(Requirements(given={"teacher": saved("PPO")}))

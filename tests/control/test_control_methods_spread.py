"""Ensembles and critics with spreads in control: what their models compute, and every method for a few updates."""

import math

import pytest
import torch
from control_worlds import SMALL
from torch.testing import assert_close

from unirl import Batch, make
from unirl.config import compose, method_config
from unirl.control import ControlDomain
from unirl.control.batch_norm import BatchRenorm, RenormMLP
from unirl.control.critics import q_network
from unirl.control.models.action_gradient import autograd_slopes, slopes
from unirl.domain import QSpec, Requirements
from unirl.errors import UserError
from unirl.run import build
from unirl.trainer.checkpoint import read_checkpoint, write_checkpoint

METHODS = ("dsac_t", "stac", "tqc", "redq", "sac_n", "edac", "crossq")
OFFLINE = ("sac_n", "edac")
CHEAP = ["task=inverted_pendulum", "model.hidden=[16]", "evaluations=1", "evaluation_episodes=1", "checkpoints=0"]


def words(method: str, out: object, iterations: int) -> list[str]:
    """A few small updates."""
    source = ["task.demonstrations.episodes=1"] if method in OFFLINE else ["method.source.warmup=32"]
    return [f"method={method}", *CHEAP, *source, "method.source.batch=32", f"iterations={iterations}", f"out={out}"]


@pytest.mark.parametrize("method", METHODS)
def test_a_few_updates_move_policy_and_critics_and_stay_finite(method, tmp_path):
    trainer = build(compose(words(method, tmp_path, 24)), None)
    before = {role: [p.clone() for p in trainer.domain.parameters(role)] for role in ("policy", "q")}
    for _ in range(24):
        trainer.iterate()
    for role, parameters in before.items():
        moved = [
            not torch.equal(old, new) for old, new in zip(parameters, trainer.domain.parameters(role), strict=True)
        ]
        assert all(moved), role
    assert all(math.isfinite(value) for value in trainer._means.take().values())


def test_redq_steps_its_policy_once_in_a_round_of_twenty_updates(tmp_path):
    trainer = build(compose(words("redq", tmp_path, 60)), None)
    moved, samples = [], []
    for iteration in range(60):
        before = trainer.domain.parameters("policy")[0].clone()
        trainer.iterate()
        if not torch.equal(before, trainer.domain.parameters("policy")[0]):
            moved.append(iteration)
        samples.append(trainer.source.samples)
    assert moved == [0, 20, 40]
    assert samples == [32] * 20 + [33] * 20 + [34] * 20


@pytest.mark.parametrize("method", ["dsac_t", "redq", "crossq", "stac"])
def test_a_restored_run_continues_bit_for_bit(method, tmp_path):
    first, second = (build(compose(words(method, tmp_path / name, 40)), None) for name in ("a", "b"))
    for _ in range(5):
        first.iterate()
    write_checkpoint(tmp_path, first.iteration, first.state_dict())
    second.load_state_dict(read_checkpoint(tmp_path))
    ends = []
    for trainer in (first, second):
        torch.manual_seed(0)  # dropout draws from the global generator, which a run restores with everything else
        for _ in range(5):
            trainer.iterate()
        ends.append([p.clone() for role in ("policy", "q") for p in trainer.domain.parameters(role)])
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one, other)


def domain_of(requirements: Requirements, env: str = "Hopper-v5") -> ControlDomain:
    domain = ControlDomain({"env": env}, SMALL, normalize_observation=False, normalize_reward=False)
    domain.build(requirements)
    return domain


def test_action_gradients_are_those_of_each_critic_alone():
    domain = domain_of(Requirements(q=QSpec(heads=3), models={"action_gradient": {}}))
    batch = domain.score(domain.rollout(5, unit="segment"), {"model.q_action_gradient"})
    found = batch.model["q_action_gradient"]
    assert found.shape == (1, 5, 3, 3)
    observation, action = batch.inputs["observation"], batch.inputs["action"].clone().requires_grad_()
    values = domain.q(torch.cat([observation, action.clamp(-1, 1)], -1))
    for head in range(3):
        (expected,) = torch.autograd.grad(values[head].sum(), action, retain_graph=True)
        inside = (action.detach().abs() < 1).to(found.dtype)
        assert_close(found[:, :, head] * inside, expected)
    loss = make("critic", "diversity").loss(batch).sum()
    loss.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in domain.q.weights)


@pytest.mark.parametrize(("half", "apart"), [(False, 1e-5), (True, 0.1)])
def test_action_gradients_and_theirs_are_those_of_two_passes_of_autograd(half, apart):
    torch.manual_seed(0)
    critic = q_network(QSpec(heads=5), 11, 3, discrete=False, model={"half": half})
    inputs, both = torch.randn(128, 14), []
    for way in (slopes, autograd_slopes):
        critic.zero_grad()
        found = way(critic, inputs, 3)
        batch = Batch(model={"q_action_gradient": found.transpose(0, 1)[:, None]}, mask=torch.ones(128, 1).bool())
        make("critic", "diversity").loss(batch).mean().backward()
        both.append([found.detach(), *(weight.grad for weight in critic.weights)])
    for one, other in zip(*both, strict=True):
        assert (one - other).norm() < apart * other.norm()


def test_diversity_turns_the_critics_slopes_apart():
    # five equal directions in three dimensions give 5; the least that any five can give is -5/4
    domain = domain_of(Requirements(q=QSpec(heads=5), models={"action_gradient": {}}))
    batch, part = domain.rollout(16, unit="segment"), make("critic", "diversity")
    optimizer = torch.optim.Adam(domain.parameters("q"), lr=1e-2)
    seen = []
    for _ in range(60):
        loss = part.loss(domain.score(batch, set(part.reads))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert -1.26 < seen[-1] < -0.9 < seen[0]


def test_action_gradients_need_critics_of_one_number_per_head():
    domain = domain_of(Requirements(q=QSpec(atoms=5), models={"action_gradient": {}}))
    with pytest.raises(UserError, match="one number per head"):
        domain.score(domain.rollout(2, unit="segment"), {"model.q_action_gradient"})


def test_recorded_and_next_actions_are_normalised_as_one_batch():
    needed = Requirements(q=QSpec(batch_norm=True, tau=None), policy="tanh_gaussian", models={"joint_pass": {}})
    domain = domain_of(needed)
    assert domain.target_q is None and isinstance(domain.q, RenormMLP)
    domain.update_targets()
    rollout = domain.rollout(6, unit="segment")
    state = domain.generator.get_state()
    batch = domain.score(rollout, {"model.joint_q", "model.joint_next_q", "model.joint_next_logp"})
    assert batch.model["joint_q"].shape == batch.model["joint_next_q"].shape == (1, 6, 2)
    domain.generator.set_state(state)
    fresh = domain.policy(rollout.inputs["next_observation"]).rsample(domain.generator)
    recorded = torch.cat([rollout.inputs["observation"], rollout.inputs["action"]], -1)
    following = torch.cat([rollout.inputs["next_observation"], fresh.action], -1)
    values = domain.q.train()(torch.cat([recorded, following], 1))
    domain.q.eval()
    assert_close(values[:, :, :6].movedim(0, -1), batch.model["joint_q"])
    assert_close(values[:, :, 6:].movedim(0, -1), batch.model["joint_next_q"])
    assert_close(batch.model["joint_next_logp"], fresh.logp.detach())
    assert not batch.model["joint_next_logp"].requires_grad


def test_an_actor_sees_critics_under_running_statistics():
    domain = domain_of(Requirements(q=QSpec(batch_norm=True, tau=None), policy="tanh_gaussian"))
    rollout = domain.rollout(6, unit="segment")
    before = domain.q.renorms[0].mean.clone()
    whole = domain.score(rollout, {"q"}).q
    assert torch.equal(domain.q.renorms[0].mean, before)
    assert whole.requires_grad
    domain.score(rollout, {"q_data"})
    assert not torch.equal(domain.q.renorms[0].mean, before)


def test_batch_renormalisation_by_hand():
    # batch 1 and 3: mean 2, deviation 1; running mean 0 and variance 1 move by a tenth
    layer = BatchRenorm(1, 1, momentum=0.9, eps=0.0, warmup=1)
    x = torch.tensor([[[1.0], [3.0]]])
    assert_close(layer(x).flatten(), torch.tensor([-1.0, 1.0]))
    assert_close((layer.mean.item(), layer.variance.item()), (0.2, 1.0))
    # once warm, the output is that of the running statistics where these are near: (x - .2) / 1
    assert_close(layer(x).flatten(), torch.tensor([0.8, 2.8]))
    layer.eval()
    assert_close(layer(x).flatten(), (x - layer.mean).flatten())
    assert_close(layer.mean.item(), 0.38)


def test_a_batch_far_from_the_running_statistics_is_corrected_only_so_far():
    # deviation 10 against 1: r is cut at 3; mean 100 against 0: d is cut at 5
    layer = BatchRenorm(1, 1, eps=0.0, warmup=0)
    x = torch.tensor([[[90.0], [110.0]]])
    assert_close(layer(x).flatten(), torch.tensor([-3.0 + 5.0, 3.0 + 5.0]))


def test_sac_n_is_sac_on_recorded_data():
    sac, offline = method_config("sac"), method_config("sac_n")
    same = ("regularizers", "reduce", "update")
    assert all(sac[key] == offline[key] for key in same)
    assert offline["policy"] == {"name": sac["policy"], "log_std_range": [-5, 2]}
    assert {**sac["critic"], "heads": 20} == offline["critic"]

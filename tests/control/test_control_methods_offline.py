"""Regularised offline methods, end to end on a small recording."""

import math

import h5py
import numpy as np
import pytest
import torch

from unirl.config import compose
from unirl.run import build
from unirl.trainer.checkpoint import read_checkpoint

METHODS = ("prdc", "a2pr", "awac", "cql", "cql_lagrange", "rebrac")
SIZES = {
    "a2pr": ["method.critic.2.hidden=16"],
    "cql": ["method.critic.1.candidates=2"],
    "cql_lagrange": ["method.critic.1.candidates=2"],
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """300 random transitions of an inverted pendulum's shapes."""
    path = tmp_path_factory.mktemp("data") / "recorded.hdf5"
    draw = np.random.default_rng(0)
    ends = np.arange(300) % 20 == 19
    with h5py.File(path, "w") as file:
        for name in ("observations", "next_observations"):
            file[name] = draw.normal(size=(300, 4)).astype(np.float32)
        file["actions"] = draw.uniform(-3, 3, size=(300, 1)).astype(np.float32)
        file["rewards"] = np.ones(300, np.float32)
        file["terminals"], file["timeouts"] = ends, np.zeros(300, bool)
    return path


def trainer_of(method, recording, out, *more):
    words = [f"method={method}", "task=inverted_pendulum", f"task.data={recording}", "model=mlp_small", f"out={out}"]
    return build(compose([*words, "iterations=12", "method.source.batch=32", *SIZES.get(method, []), *more]), None)


def iterated(trainer, times):
    for _ in range(times):
        trainer.iterate()
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_every_network_learns_and_a_restored_run_continues_bit_for_bit(method, recording, tmp_path):
    whole = trainer_of(method, recording, tmp_path / "whole")
    start = {name: parameter.clone() for name, parameter in whole.domain.policy.named_parameters()}
    iterated(whole, 12)
    assert all(not torch.equal(start[name], parameter) for name, parameter in whole.domain.policy.named_parameters())
    stopped = iterated(trainer_of(method, recording, tmp_path / "stopped"), 5)
    stopped.checkpoint()
    resumed = trainer_of(method, recording, tmp_path / "stopped")
    resumed.load_state_dict(read_checkpoint(tmp_path / "stopped"))
    iterated(resumed, 7)
    wanted = whole.domain.state_dict()["networks"]
    for name, network in resumed.domain.state_dict()["networks"].items():
        for key, tensor in network.items():
            assert torch.equal(tensor, wanted[name][key]), (name, key)


def test_calibrated_cql_reads_the_recorded_returns(recording, tmp_path):
    options = ("method.critic.1.calibrated=true", "method.source.data.gamma=0.99")
    iterated(trainer_of("cql", recording, tmp_path / "run", *options), 2)


def test_a_learned_weight_of_cql_is_stepped_with_the_critics_logged_and_restored(recording, tmp_path):
    # the penalty of new critics is far below 6.6: Adam lowers the weight's logarithm by the critics' rate every update
    trainer = iterated(trainer_of("cql_lagrange", recording, tmp_path / "run"), 4)
    assert trainer.method.coefficients(0.0)["coefficient/conservative"] == pytest.approx(math.exp(-4 * 3e-4), rel=1e-5)
    trainer.checkpoint()
    resumed = trainer_of("cql_lagrange", recording, tmp_path / "run")
    resumed.load_state_dict(read_checkpoint(tmp_path / "run"))
    assert resumed.method.coefficients(0.0) == trainer.method.coefficients(0.0)
    assert "coefficient/conservative" not in trainer_of("cql", recording, tmp_path / "fixed").method.coefficients(0.0)

"""Whole runs of a language model in bfloat16."""

import json

import pytest
import torch

from unirl.config import compose
from unirl.run import _write_config, build, resume, train
from unirl.trainer.checkpoint import read_checkpoint

WORDS = ["domain=llm", "task=addition", "model.dtype=bfloat16", "method.source.rows=32", "evaluation_episodes=16"]


def config(method, folder, *more):
    return compose([f"method={method}", *WORDS, "iterations=4", "evaluations=1", *more, f"out={folder}"])


def policy(trainer):
    return {name: value.clone() for name, value in trainer.domain.policy.state_dict().items()}


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_small_rate_reaches_the_weights_only_through_masters(tmp_path):
    # Adam moves a weight by about the rate, 1e-5 per step. Above .05 bfloat16's neighbours are 2.4e-4 apart or more: a
    # step alone is lost, 12 of the 24 in one direction are not
    moved = {}
    for masters in (True, False):
        folder = tmp_path / str(masters)
        more = [f"+method.update.master_weights={masters}", "method.update.lr=1e-5"]
        trainer = build(config("grpo", folder, *more), None)
        start = policy(trainer)
        for _ in range(6):
            trainer.iterate()
        large = {name: value.abs() > 0.05 for name, value in start.items()}
        changed = [(policy(trainer)[name] != value)[large[name]] for name, value in start.items()]
        moved[masters] = int(torch.cat(changed).sum())
        assert all(value.dtype == torch.bfloat16 for value in policy(trainer).values())
    assert moved[False] == 0
    assert moved[True] > 0


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_stopped_run_in_half_precision_continues_as_if_it_had_not_been_stopped(method, tmp_path):
    whole, stopped = config(method, tmp_path / "whole"), config(method, tmp_path / "stopped")
    train(whole)
    trainer = build(stopped, None)
    _write_config(stopped, tmp_path / "stopped")
    trainer._evaluate()
    for _ in range(2):
        before = trainer.progress
        trainer.iterate()
        trainer._report(before, trainer.progress)
    trainer.checkpoint()
    resume(tmp_path / "stopped")
    ends = []
    for folder in (tmp_path / "whole", tmp_path / "stopped"):
        state = read_checkpoint(folder)
        ends.append(state["update"]["masters"]["masters"] + list(state["domain"]["policy"].values()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert records(tmp_path / "whole") == records(tmp_path / "stopped")

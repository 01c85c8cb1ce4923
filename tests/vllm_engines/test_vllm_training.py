"""Whole runs that sample by vLLM: it follows the policy at every iteration, and a resumed run is the same run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unirl.config import compose
from unirl.run import _write_config, build, resume, train
from unirl.trainer.checkpoint import read_checkpoint


def typed(out: Path, *more: str) -> Any:
    return compose(
        [
            "method=grpo",
            "domain=llm",
            "task=addition",
            "task.pretrain.steps=100",
            "domain.engine={name: vllm, memory: 0.1}",
            "evaluation_episodes=32",
            "evaluations=2",
            "iterations=4",
            "method.source.rows=64",
            "method.update.lr=1e-3",
            f"out={out}",
            *more,
        ]
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.mark.parametrize("more", [[], ["model.lora={rank: 4, alpha: 8, targets: all-linear}"]], ids=["full", "lora"])
def test_a_stopped_run_continues_bit_for_bit_and_vllm_follows_the_policy(more: list[str], tmp_path: Path) -> None:
    whole, stopped = (typed(tmp_path / name, *more) for name in ("whole", "stopped"))
    train(whole)
    _write_config(stopped, tmp_path / "stopped")
    first = build(stopped, None)
    first._evaluate()
    while first.iteration < 3:  # one iteration is lost: the checkpoint is older than the stop
        before = first.progress
        first.iterate()
        first._report(before, first.progress)
        if first.iteration == 2:
            first.checkpoint()
    resume(tmp_path / "stopped")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    ends = [read_checkpoint(tmp_path / name)["domain"]["policy"] for name in ("whole", "stopped")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    steps = [record for record in metrics(tmp_path / "whole") if "policy/engine_kl" in record]
    assert len(steps) == 4
    for record in steps:
        assert abs(record["policy/engine_kl"]) < 1e-8, record
        assert record["policy/engine_max_ratio"] < 1 + 1e-4, record
    assert any(record["gradient_norm/policy"] > 0 for record in steps)

"""Whole runs in real worlds: the run folder, resuming, starting from another run."""

import json

import pytest
import torch

from unirl.config import compose
from unirl.errors import UserError
from unirl.run import _peak_memory, _write_config, build, evaluate, resume, train

SMALL = {
    "control": ["task=inverted_pendulum", "evaluation_episodes=2"],
    "llm": ["task=addition", "evaluation_episodes=32", "method.update.minibatches=1"],
}
RUNS = {
    ("ppo", "control"): ["iterations=6", "method.source.rows=256", "method.update.minibatches=4"],
    ("sac", "control"): ["iterations=60", "method.source.warmup=50", "model=mlp_small"],
    ("td3", "control"): ["iterations=60", "method.source.warmup=50", "model=mlp_small"],
    ("grpo", "control"): ["iterations=6", "method.source.rows=8", "method.source.group_size=4"],
    ("bc", "control"): ["iterations=40", "task.demonstrations.episodes=1"],
    ("dpo", "control"): ["iterations=20", "task.preferences.segments=32"],
    ("ppo", "llm"): ["iterations=4", "method.source.rows=32"],
    ("grpo", "llm"): ["iterations=4", "method.source.rows=32"],
    ("dpo", "llm"): ["iterations=6", "task.preferences.prompts=16"],
    ("nash_md", "llm"): ["iterations=4", "method.source.rows=32"],
}


def typed(method, domain, out, *more):
    return compose([f"method={method}", *SMALL[domain], *RUNS[method, domain], f"out={out}", "evaluations=2", *more])


def metrics(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def weights(trainer):
    return {name: value.clone() for name, value in trainer.domain.policy.state_dict().items()}


@pytest.mark.parametrize(("method", "domain"), RUNS)
def test_a_stopped_run_continues_as_if_it_had_not_been_stopped(method, domain, tmp_path):
    whole, stopped = typed(method, domain, tmp_path / "whole"), typed(method, domain, tmp_path / "stopped")
    train(whole)
    _write_config(stopped, tmp_path / "stopped")
    first = build(stopped, None)
    half = first.schedule.iterations // 2
    first._evaluate()
    while first.iteration < half + 1:  # one iteration is lost: the checkpoint is older than the stop
        before = first.progress
        first.iterate()
        first._report(before, first.progress)
        if first.iteration == half:
            first.checkpoint()
    resume(tmp_path / "stopped")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    ends = [build(config, None) for config in (whole, stopped)]
    for trainer in ends:
        from unirl.trainer.checkpoint import read_checkpoint

        trainer.load_state_dict(read_checkpoint(trainer.folder))
    for name, value in weights(ends[0]).items():
        assert torch.equal(value, weights(ends[1])[name]), name


def test_the_run_folder_holds_what_the_design_says(tmp_path):
    result = train(typed("ppo", "control", tmp_path / "run"))
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text()) == result
    keys = {"method", "domain", "task", "seed", "score_start", "score_end", "score_best", "steps", "samples", "seconds"}
    assert keys | {"samples_per_second", "peak_rss_mb", "versions"} <= set(result)
    assert (result["steps"], result["samples"]) == (6, 6 * 256)
    lines = metrics(folder)
    assert lines[0]["step"] == 0
    assert lines[0]["eval/score"] == result["score_start"]
    assert {"loss/policy", "loss/value", "policy/kl_old", "policy/clip_fraction"} <= set(lines[1])
    assert (folder / "config.yaml").exists()
    assert [path.name for path in (folder / "checkpoints").iterdir()]


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    config = typed("ppo", "control", tmp_path / "run")
    train(config)
    with pytest.raises(UserError, match="already holds a run; `unirl resume"):
        train(config)


@pytest.mark.parametrize("domain", ["control", "llm"])
def test_a_run_can_start_from_another_runs_policy(domain, tmp_path):
    first = train(typed("grpo", domain, tmp_path / "first", "method.update.lr=3e-3", "evaluation_episodes=16"))
    second = train(typed("grpo", domain, tmp_path / "second", f"init={tmp_path / 'first'}", "evaluation_episodes=16"))
    assert second["score_start"] == first["score_end"] != first["score_start"]


def test_evaluation_repeats_the_runs_last_one(tmp_path):
    result = train(typed("ppo", "control", tmp_path / "run"))
    assert evaluate(tmp_path / "run")["score"] == result["score_end"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=pppo"], r"unknown method 'pppo' \(did you mean ppo"),
        (["task=hoper"], r"unknown task 'hoper' \(did you mean hopper"),
        (["sede=3"], r"unknown key 'sede' \(did you mean seed"),
        (["method.update.lr=fast"], r"update\.lr for 'value' is 'fast'"),
        (["method.objective.clip=0.2"], "hyper-parameter of objective 'ppo_clip' 'clip'"),
        (["method=sac", "domain=llm"], "method 'sac' is for control, not for llm"),
        (["task=addition", "domain=control"], "task 'addition' belongs to domain=llm"),
        (["method=bc", "task=hopper"], r"task\.data"),
        (["method=bc", "task=hopper", "task.data=nowhere.hdf5"], "nowhere.hdf5"),
        (["task=gymnasium", "task.env=Hoper-v5"], "Hoper-v5"),
        (["method=grpo", "domain=llm", "model=hf", "model.path=/nonexistent"], "nonexistent"),
        (["method=./nowhere.yaml"], "nowhere.yaml"),
        (["init=nowhere"], "nowhere has no checkpoint"),
        (["samples=-5"], "samples is -5"),
        (["seed=1.5"], "seed is 1.5; it must be a whole number"),
        (["logs=many"], "logs is 'many'"),
        (["plugins=[no_such_module]"], "no module 'no_such_module'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(words, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        train(compose([*words, f"out={tmp_path / 'run'}"]))
    assert "\n" not in str(caught.value)


def test_peak_memory_names_the_accelerator_where_one_is_used(monkeypatch):
    assert set(_peak_memory()) == {"peak_rss_mb"}
    for name, value in {"is_available": True, "is_initialized": True, "device_count": 2}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: (device + 1) * 3 * 2**20)
    assert _peak_memory()["peak_cuda_mb"] == 9.0  # 3 on the first device, 6 on the second

"""One run: build what a configuration names, train, resume, evaluate; the run folder."""

import importlib
import json
import os
import platform
import random
import resource
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from unirl.domain import Domain
from unirl.errors import UserError
from unirl.method import Method
from unirl.optim import make_update
from unirl.registry import make
from unirl.trainer.checkpoint import read_checkpoint
from unirl.trainer.loop import Schedule, Trainer
from unirl.trainer.progress import ProgressSink, SilentProgress

PACKAGES = ("unirl", "torch", "tensordict", "gymnasium", "mujoco", "transformers", "peft", "numpy")


def train(config: Mapping[str, Any], *, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Train from the start and write the run folder; returns the content of `result.json`."""
    folder = Path(config["out"])
    if (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder} already holds a run; `unirl resume {folder}` continues it, out=DIR chooses another")
    _write_config(config, folder)
    return _run(build(config, progress), config, folder)


def resume(folder: Path | str, *, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Continue a run from its newest complete checkpoint; from the start where there is none."""
    folder = Path(folder)
    config = read_config(folder)
    trainer = build({**config, "out": str(folder)}, progress)
    state = read_checkpoint(folder)
    if state is None:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    else:
        trainer.load_state_dict(state)
    return _run(trainer, config, folder)


def load(folder: Path | str) -> Trainer:
    """A run with its newest checkpoint's weights, to evaluate or to look at."""
    folder = Path(folder)
    trainer = build({**read_config(folder), "out": str(folder)}, None)
    state = read_checkpoint(folder)
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet; `unirl resume {folder}` trains on")
    trainer.domain.load_state_dict(state["domain"])
    return trainer


def evaluate(
    folder: Path | str, *, episodes: int | None = None, sampled: bool | None = None, video: Path | None = None
) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint with fixed seeds; `video` films one episode where the domain can.

    `episodes` (or prompts) and whether decisions are `sampled` default to what the run's own evaluations used.
    """
    trainer = load(folder)
    domain: Any = trainer.domain
    how = {} if sampled is None else {"sampled": sampled}
    result: dict[str, Any] = domain.evaluate(episodes or trainer.schedule.evaluation_episodes, **how)
    if video is not None:
        if not hasattr(domain, "record_video"):
            raise UserError(f"domain '{domain.info.name}' has no pictures to film")
        domain.record_video(video)
        result["video"] = str(video)
    return result


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration that a run folder holds."""
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text())
    except OSError as error:
        raise UserError(f"{folder} is not a run folder (no readable config.yaml)") from error
    except yaml.YAMLError as error:
        raise UserError(f"{folder}/config.yaml is not valid YAML") from error
    if not isinstance(content, dict):
        raise UserError(f"{folder}/config.yaml holds no configuration")
    return content


def build(config: Mapping[str, Any], progress: ProgressSink | None) -> Trainer:
    """Make the domain, the method, the source and the update that a configuration names."""
    _seed_everything(config)
    for module in config.get("plugins") or []:
        _import_plugin(str(module))
    domain = _make_domain(config)
    method_config = dict(config["method"])
    method = Method.from_config(method_config, domain.info)
    domain.build(method.requirements)
    if config.get("init"):
        domain.start_from(_domain_state(Path(config["init"])))
    source_config = method_config.get("source") or {"name": "online"}
    source_config = {"name": source_config} if isinstance(source_config, str) else dict(source_config)
    source = make("source", source_config.pop("name", "online"), **source_config)
    source.start(domain, int(config["seed"]))
    update_config = dict(method_config.get("update") or {})
    epochs, parts = int(update_config.pop("epochs", 1)), int(update_config.pop("minibatches", 1))
    parameters = {name: domain.parameters(name) or method.parameters(name) for name in method.losses_in_order}
    budget: dict[str, Any] = {key: config.get(key) for key in ("samples", "iterations")}
    counts = {key: int(config[key]) for key in ("evaluations", "evaluation_episodes", "checkpoints", "logs")}
    return Trainer(
        domain=domain,
        method=method,
        source=source,
        update=make_update(update_config, parameters),
        schedule=Schedule(**budget, **counts, epochs=epochs, minibatches=parts),
        folder=Path(config["out"]),
        progress_sink=progress or SilentProgress(),
        seed=int(config["seed"]),
    )


def _domain_state(folder: Path) -> Any:
    """The domain's part of a run's newest checkpoint."""
    state = read_checkpoint(folder)
    if state is None:
        raise UserError(f"{folder} has no checkpoint" + ("" if folder.is_dir() else ": there is no such folder"))
    return state["domain"]


def _make_domain(config: Mapping[str, Any]) -> Domain:
    options = {k: v for k, v in config["domain"].items() if k not in _NOT_OPTIONS}
    module_name, _, class_name = str(config["domain"]["_target_"]).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        extra = config["domain"]["name"]
        raise UserError(f"domain '{extra}' needs the package '{error.name}': pip install 'unirl[{extra}]'") from error
    arguments = {"task": config["task"], "model": config["model"], "seed": int(config["seed"])}
    try:
        domain: Domain = getattr(module, class_name)(**arguments, device=config.get("device", "cpu"), **options)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"domain '{config['domain']['name']}': {error}") from error
        raise
    return domain


_NOT_OPTIONS = ("_target_", "name", "by_source", "default_task", "default_model", "evaluation_episodes")


def _import_plugin(module: str) -> None:
    sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"plugins: there is no module '{module}' here or on the Python path") from error
    finally:
        sys.path.pop(0)


def _seed_everything(config: Mapping[str, Any]) -> None:
    torch.set_num_threads(int(config.get("threads") or 1))
    seed = int(config["seed"])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _write_config(config: Mapping[str, Any], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error


def _run(trainer: Trainer, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    sink = trainer.progress_sink
    schedule = trainer.schedule
    total, unit = schedule.samples or schedule.iterations or 0, "samples" if schedule.samples else "iterations"
    sink.start(total, unit, f"{trainer.method.name} on {trainer.domain.info.task}, seed {trainer.seed}")
    trainer.run()
    result = _result(trainer, config)
    temporary = folder / ".result.json"
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.rename(folder / "result.json")
    sink.finish(result)
    return result


def _result(trainer: Trainer, config: Mapping[str, Any]) -> dict[str, Any]:
    samples, seconds = trainer.source.samples, trainer.seconds
    return {
        "method": trainer.method.name,
        "domain": trainer.domain.info.name,
        "task": trainer.domain.info.task,
        "seed": trainer.seed,
        "score_start": trainer.scores[0],
        "score_end": trainer.scores[-1],
        "score_best": max(trainer.scores),
        "steps": trainer.iteration,
        "samples": samples,
        "sample_unit": trainer.domain.info.sample_unit,
        "seconds": round(seconds, 3),
        "samples_per_second": round(samples / max(seconds, 1e-9), 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "parts": [f"{type(part).__module__}.{type(part).__qualname__}" for part in trainer.method.parts],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "cpus": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

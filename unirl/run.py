"""One run: build what a configuration names, train, resume, evaluate; the run folder."""

import importlib
import json
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn import Parameter

from unirl.allocator import keep_freed_memory
from unirl.domain import Domain, DomainInfo, role_of
from unirl.errors import RunWarning, UserError
from unirl.method import Method, section
from unirl.optim import make_update
from unirl.registry import make
from unirl.trainer import generators
from unirl.trainer.checkpoint import read_checkpoint
from unirl.trainer.exhaustion import exhaustion_in_one_line, is_allocation
from unirl.trainer.files import write_whole
from unirl.trainer.lock import folder_lock
from unirl.trainer.loop import Schedule, Trainer
from unirl.trainer.progress import ProgressSink, SilentProgress

SECTIONS = ("method", "domain", "task", "model", "seed")  # without these a configuration cannot be built
PASSES = ("epochs", "minibatches")  # keys of the `update` section that say how a batch is gone through
PACKAGES = ("unirl", "torch", "tensordict", "gymnasium", "mujoco", "transformers", "peft", "numpy")


def train(config: Mapping[str, Any], *, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Train from the start and write the run folder; returns the content of `result.json`.

    Raises `UserError` where the folder holds a run already or another process trains there.
    """
    folder = Path(config["out"])
    with folder_lock(folder), exhaustion_in_one_line(config, folder):
        if (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists():
            raise UserError(
                f"{folder} already holds a run; `unirl resume {folder}` continues it, out=DIR chooses another"
            )
        _write_config(config, folder)
        return _run(build(config, progress), config, folder)


def resume(folder: Path | str, *, progress: ProgressSink | None = None) -> dict[str, Any]:
    """Continue a run from its newest readable checkpoint; from the start where there is none.

    A run that has reached its end is left as it is, with a warning. Raises `UserError` where another process trains it.
    """
    folder = Path(folder)
    config = read_config(folder)
    with folder_lock(folder), exhaustion_in_one_line(config, folder):
        trainer = build({**config, "out": str(folder)}, progress)
        state = read_checkpoint(folder)
        if state is None:
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        else:
            with _fitting(folder):
                trainer.load_state_dict(state)
        if trainer.progress >= 1.0 and (folder / "result.json").exists():
            warnings.warn(RunWarning(f"{folder} has reached its end: there is nothing to resume"), stacklevel=2)
            result: dict[str, Any] = json.loads((folder / "result.json").read_text())
            return result
        return _run(trainer, config, folder)


def load(folder: Path | str) -> Trainer:
    """A run with its newest checkpoint's weights, to evaluate or to look at."""
    folder = Path(folder)
    trainer = build({**read_config(folder), "out": str(folder)}, None)
    state = read_checkpoint(folder)
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet; `unirl resume {folder}` trains on")
    with _fitting(folder):
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
    missing = [key for key in SECTIONS if key not in content] if isinstance(content, dict) else SECTIONS
    if missing:
        raise UserError(f"{folder}/config.yaml is not a run's configuration: it has no '{missing[0]}'")
    result: dict[str, Any] = content
    return result


def build(config: Mapping[str, Any], progress: ProgressSink | None) -> Trainer:
    """Make the domain, the method, the source and the update that a configuration names."""
    _check_device(str(config.get("device", "cpu")))
    torch.set_num_threads(int(config.get("threads") or 1))
    keep_freed_memory()
    generators.seed(int(config["seed"]))
    for module in config.get("plugins") or []:
        _import_plugin(str(module))
    domain = _make_domain(config)
    method_config = dict(config["method"])
    method = Method.from_config(method_config, domain.info)
    domain.build(method.requirements)
    if config.get("init"):
        _start_from(Path(config["init"]), domain, config)
    source_config, update_config = section(method_config, "source"), _update_of(method_config)
    source = make("source", source_config.pop("name", "online"), **source_config)
    source.start(domain, int(config["seed"]))
    if method.constraints and not update_config.get("gradient"):
        raise UserError(
            f"method '{method.name}' has constraints ({', '.join(method.constraints)}), which only a gradient rule can "
            "hold; set method.update.gradient=trust_region"
        )
    parameters = {
        name: [*domain.parameters(role_of(name)), *method.parameters(name)] for name in method.losses_in_order
    }
    return Trainer(
        domain=domain,
        method=method,
        source=source,
        update=make_update(update_config, parameters),
        schedule=_schedule(config),
        folder=Path(config["out"]),
        progress_sink=progress or SilentProgress(),
        seed=int(config["seed"]),
    )


def check(config: Mapping[str, Any]) -> None:
    """Raise the `UserError` that `build` would raise for what can be known without the domain, which is not made.

    Not for a method with plugins: their parts are known only in the processes that import them.
    """
    _schedule(config)
    if config.get("plugins"):
        return
    info = DomainInfo(config["domain"]["name"], config["task"]["name"], True, 0.0, "samples")
    method = Method.from_config(config["method"], info)
    make_update(_update_of(config["method"]), {name: [Parameter(torch.zeros(1))] for name in method.losses_in_order})


def _update_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The `update` section without what the schedule takes from it."""
    return {key: value for key, value in section(method, "update").items() if key not in PASSES}


def _schedule(config: Mapping[str, Any]) -> Schedule:
    update = section(config["method"], "update")
    passes = {key: _count(update, key) for key in PASSES}
    budget: dict[str, Any] = {key: config.get(key) for key in ("samples", "iterations")}
    counts = {key: int(config[key]) for key in ("evaluations", "evaluation_episodes", "checkpoints", "logs")}
    return Schedule(**budget, **counts, **passes)


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Say in one line that a run's checkpoint does not fit what has just been built."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError) as error:
        if is_allocation(error):
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).strip().partition("\n")[0].rstrip(":")
        raise UserError(
            f"the checkpoint of {folder} does not fit this configuration ({reason}); was it changed, or was the "
            f"checkpoint written by another version of unirl?"
        ) from error


def _start_from(folder: Path, domain: Domain, config: Mapping[str, Any]) -> None:
    """Take over a run's policy; raises `UserError`, with both kinds of policy, where they are of different methods."""
    with _fitting(folder):
        state = _domain_state(folder)
        try:
            domain.start_from(state)
        except UserError as error:
            theirs, ours = _policy_of(read_config(folder)), _policy_of(config)
            if theirs == ours:
                raise
            raise UserError(
                f"init={folder}: its policy ({theirs}) does not fit this run's ({ours}); give a run with the same kind "
                "of policy, task and model"
            ) from error


def _policy_of(config: Mapping[str, Any]) -> str:
    """Which policy a configuration asks for, in words: the method's, else the model's."""
    given = config["method"].get("policy") or config["model"].get("policy", "auto")
    kind = given["name"] if isinstance(given, Mapping) else given
    return f"method {config['method'].get('name')}, policy {kind}"


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


def _count(update: Mapping[str, Any], key: str) -> int:
    value = update.get(key, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"method.update.{key} is {value!r}; it must be a whole number of at least 1")
    return value


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # torch's own messages run to many lines
        raise UserError(f"device={name} cannot be used here; `unirl doctor` shows the devices that can") from error


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


def _write_config(config: Mapping[str, Any], folder: Path) -> None:
    write_whole(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))


def _run(trainer: Trainer, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    sink = trainer.progress_sink
    schedule = trainer.schedule
    total, unit = schedule.samples or schedule.iterations or 0, "samples" if schedule.samples else "iterations"
    sink.start(total, unit, f"{trainer.method.name} on {trainer.domain.info.task}, seed {trainer.seed}")
    trainer.run()
    result = _result(trainer, config)
    write_whole(folder / "result.json", json.dumps(result, indent=2) + "\n")
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
        **_peak_memory(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "parts": [f"{type(part).__module__}.{type(part).__qualname__}" for part in trainer.method.parts],
        "versions": versions(),
    }


def _peak_memory() -> dict[str, float]:
    """The most that this process has held: `peak_rss_mb`, and `peak_cuda_mb` of tensors on an accelerator, if used."""
    found = {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_cuda_mb"] = sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))) / 2**20
    return {name: round(megabytes, 1) for name, megabytes in found.items()}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version(), "cpus": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

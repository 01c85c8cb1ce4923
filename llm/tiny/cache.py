"""The tiny model of a task: made once, then read from a folder in Hugging Face's layout."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from filelock import FileLock
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from unirl.llm.quiet import quiet_loading
from unirl.llm.tasks import make_task
from unirl.llm.tasks.task import make_problems
from unirl.llm.tiny.pretrain import (
    Architecture,
    Pretraining,
    Progress,
    new_model,
    pretrain,
    read_architecture,
    read_pretraining,
)
from unirl.llm.tiny.tokenizer import make_tokenizer

RECIPE = 1  # raise it when the same configuration would give another model
_MATTERS_NOT = ("domain", "verifier", "format", "reward", "pretrain", "preferences", "budget", "overrides")


def tiny_model(
    task_config: Mapping[str, Any], model_config: Mapping[str, Any], seed: int, progress: Progress | None = None
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerBase]:
    """A small Qwen3 that already solves the task now and then, and its tokenizer.

    `task_config`: the task's keys and its `pretrain` section (`Pretraining`). `model_config`: `Architecture`'s keys,
    and `seed`, which goes before the argument, so that runs of different seeds can start from the same model.
    Pre-training happens on first use, with `progress(done, steps)` after every step. The result is kept in
    `$UNIRL_HOME/tiny` (default `~/.cache/unirl/tiny`), under a name made of all that determines it. Processes that want
    the same model at the same time wait for the one that makes it.

    Raises `UserError` for a wrong key or value.
    """
    architecture, settings = read_architecture(model_config), read_pretraining(task_config.get("pretrain"))
    seed = int(model_config.get("seed", seed))
    make_problems(task_config)  # tells of mistakes before anything is made
    folder = cache_folder() / _fingerprint(task_config, architecture, settings, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Reading is locked too: transformers patches torch's initialisers meanwhile, for all threads of the process
    with FileLock(folder.with_suffix(".lock")), quiet_loading():
        if not folder.is_dir():
            _make(folder, task_config, architecture, settings, seed, progress)
        return Qwen3ForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def cache_folder() -> Path:
    """Where tiny models are kept."""
    home = os.environ.get("UNIRL_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "unirl") / "tiny"


def _make(
    folder: Path,
    task_config: Mapping[str, Any],
    architecture: Architecture,
    settings: Pretraining,
    seed: int,
    progress: Progress | None,
) -> None:
    """Write the model to a temporary folder beside `folder`, then give it its name in one step."""
    tokenizer = make_tokenizer(make_problems(task_config), architecture.vocabulary)
    model = new_model(architecture, tokenizer, seed)
    pretrain(model, make_task(task_config, tokenizer, seed), settings, seed, progress)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with quiet_loading():
            model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fingerprint(task_config: Mapping[str, Any], architecture: Architecture, settings: Pretraining, seed: int) -> str:
    """The task's name and a digest of everything the weights depend on, the contents of data files included."""
    determines = {
        "recipe": RECIPE,
        "task": {key: _content(value) for key, value in task_config.items() if key not in _MATTERS_NOT},
        "architecture": asdict(architecture),
        "pretraining": asdict(settings),
        "seed": seed,
        "versions": [torch.__version__, transformers.__version__, tokenizers.__version__],
    }
    digest = hashlib.sha256(json.dumps(determines, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return f"{task_config['name']}-{digest}"


def _content(value: Any) -> Any:
    if isinstance(value, str) and Path(value).is_file():
        return hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return dict(value) if isinstance(value, Mapping) else value

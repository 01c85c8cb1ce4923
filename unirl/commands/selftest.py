"""A few seconds of training in a domain, stopped half-way and resumed: `python -m unirl.commands.selftest DOMAIN DIR`.

`configs/self_test/<domain>.yaml` says what is trained, so that this module knows no domain.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from unirl.config import choices, compose, group_config
from unirl.errors import UserError
from unirl.run import resume, train
from unirl.trainer.checkpoint import FOLDER
from unirl.trainer.statefile import TENSORS

LIMIT_SECONDS = 120.0
SETTINGS = ("evaluations=1", "checkpoints=2", "logs=4")


@dataclass(frozen=True)
class SelfTest:
    """How it went: `problem` is None, or a line that says what failed; `command` shows the whole error."""

    domain: str
    seconds: float
    problem: str | None
    command: str


def tested_domains() -> list[str]:
    """The domains that have a self-test."""
    return choices("self_test")


def overrides(domain: str) -> list[str]:
    """What the self-test of a domain trains."""
    return [*group_config("self_test", domain)["overrides"], *SETTINGS]


def run_self_test(domain: str, limit: float = LIMIT_SECONDS) -> SelfTest:
    """Run it in a process of its own, so that a crash of some library is a finding like any other."""
    started = time.monotonic()
    command = shlex.join(["unirl", "train", *overrides(domain), "out=out/self_test", "--debug"])
    with tempfile.TemporaryDirectory(prefix="unirl_") as folder:
        problem = _problem([sys.executable, "-m", __spec__.name, domain, folder], folder, limit)
    return SelfTest(domain, round(time.monotonic() - started, 1), problem, command)


def _problem(words: list[str], folder: str, limit: float) -> str | None:
    environment = {**os.environ, "UNIRL_HOME": folder, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"not finished after {limit:g} s"
    if done.returncode == 0:
        return None
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return said[-1] if said else f"the process ended with code {done.returncode}"


def train_and_resume(domain: str, folder: Path) -> None:
    """Train; continue a copy from the checkpoint in the middle. Raises `UserError` if the two end differently."""
    whole, continued = folder / "whole", folder / "continued"
    result = train(compose([*overrides(domain), f"out={whole}"]))
    shutil.copytree(whole, continued)
    (continued / "result.json").unlink()
    last = sorted((continued / FOLDER).iterdir())[-1]
    shutil.rmtree(last)
    again = resume(continued)
    ends = [(place / FOLDER / last.name / TENSORS).read_bytes() for place in (whole, continued)]
    if ends[0] != ends[1] or result["score_end"] != again["score_end"]:
        raise UserError("a resumed training does not end in the same weights as one that was never stopped")
    print(json.dumps({"score_start": result["score_start"], "score_end": result["score_end"]}))


if __name__ == "__main__":
    train_and_resume(sys.argv[1], Path(sys.argv[2]))

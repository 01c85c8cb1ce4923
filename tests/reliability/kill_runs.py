"""Kill trainings, resume them, and compare with the training that nobody disturbed.

    python tests/reliability/kill_runs.py [--kills 20] [--out docs/benchmarks/kill_and_resume.json]

Every training is a process of its own, forked from a server that has imported the packages and computed nothing, and it
is killed with SIGKILL: either by its parent, at a random moment of a random iteration (or before the first one), or by
itself inside a write, where a hook brings about what a kill at that point leaves on the disk.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from kill_hooks import HOOKS, IN_A_CHECKPOINT, IN_ANOTHER_WRITE, WHILE_RESUMING

from unirl import cli
from unirl.trainer.loop import Trainer
from unirl.trainer.statefile import load_state

COMMON = ["evaluations=3", "logs=20", "--quiet"]
RUNS = {  # one of each kind of source; iterations so that it lasts one to two seconds
    "ppo": ["task=inverted_pendulum", "iterations=24", "method.source.rows=128", "method.update.epochs=2",
            "method.update.minibatches=2", "evaluation_episodes=2", "checkpoints=12"],
    "sac": ["task=inverted_pendulum", "iterations=231", "method.source.warmup=60", "model=mlp_small",
            "method.source.batch=64", "evaluation_episodes=2", "checkpoints=33"],
    "td3_bc": ["task=inverted_pendulum", "iterations=231", "task.data={folder}/recorded.hdf5", "model=mlp_small",
               "method.source.batch=64", "evaluation_episodes=2", "checkpoints=33"],
    "dpo": ["task=addition", "iterations=20", "task.preferences.prompts=16", "evaluation_episodes=32",
            "checkpoints=10"],
    "grpo": ["task=addition", "iterations=12", "method.source.rows=32", "evaluation_episodes=32", "checkpoints=12"],
}  # fmt: skip
KINDS = {"ppo": "on-policy", "sac": "off-policy", "td3_bc": "offline", "dpo": "preference", "grpo": "language"}
# By the server, so that its children need not: `unirl.control` and `unirl.llm` import their parts when they are used.
IMPORTED = ["unirl.commands.train", "unirl.commands.resume", "unirl.control.domain", "unirl.llm.domain",
            "unirl.parts", "transformers.models.qwen3.modeling_qwen3"]  # fmt: skip
ANYWHERE = "running"
START = 1.0  # seconds that a training takes to begin, about
WAIT = 120.0  # seconds until a training counts as hung


@dataclass(frozen=True)
class Moment:
    """When to kill: in or after this iteration (-1: before the first), at this phase."""

    iteration: int
    phase: str = ANYWHERE


@dataclass(frozen=True)
class Kill:
    """One line of the table."""

    run: str
    kind: str
    chain: int
    kill: int
    iteration: int
    phase: str
    resumed_from: int | None
    metrics_equal: bool = False
    state_equal: bool = False


class Training:
    """`unirl` in a process that can be killed; `iteration` says how far it is."""

    def __init__(self, words: Sequence[str], log: Path, moment: Moment | None = None) -> None:
        context = _server()
        self._iteration = context.Value("l", -1, lock=False)
        arguments = (list(words), str(log), self._iteration, moment)
        self._process = context.Process(target=_child, args=arguments, daemon=True)
        self._process.start()

    @property
    def iteration(self) -> int:
        """The iteration that the process is in; -1 before the first."""
        return int(self._iteration.value)

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid or 0)

    def reach(self, iteration: int) -> None:
        """Wait until the process is in this iteration or has ended."""
        until = time.monotonic() + WAIT
        while self.iteration < iteration and self._process.exitcode is None and time.monotonic() < until:
            time.sleep(0.001)

    def wait(self) -> int:
        """The exit code; negative where a signal ended it."""
        self._process.join(WAIT)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError("a training did not end")
        return self._process.exitcode

    def kill_at(self, moment: Moment, after: float) -> int:
        """Send SIGKILL `after` seconds into the moment's iteration; returns the exit code."""
        self.reach(moment.iteration)
        time.sleep(after)
        self._process.kill()
        return self.wait()


def whole_run(run: str, folder: Path) -> Path:
    """The training that nobody disturbs; made once."""
    whole = folder / "whole"
    if not (whole / "result.json").exists():
        _finish(Training(words_for(run, whole), folder / "log.txt"), folder)
    return whole


def kill_chain(run: str, moments: Sequence[Moment], chain: int, folder: Path, rng: random.Random) -> list[Kill]:
    """Train, kill at each moment in turn, resume after each, and let the last one end; compares with `whole_run`."""
    whole, out = whole_run(run, folder), folder / f"chain_{chain}"
    result = json.loads((whole / "result.json").read_text())
    seconds = result["seconds"] / result["steps"]  # of an iteration
    kills: list[Kill] = []
    for moment in moments:
        inside = moment.phase != ANYWHERE
        training = Training(words_for(run, out), folder / "log.txt", moment if inside else None)
        after = rng.uniform(0, START if moment.iteration < 0 else seconds)
        code = training.wait() if inside else training.kill_at(moment, after)
        if code == 0:  # it ended before the moment came
            break
        assert code == -signal.SIGKILL, (folder / "log.txt").read_text()
        kills.append(Kill(run, KINDS[run], chain, len(kills) + 1, training.iteration, moment.phase, newest(out)))
    _finish(Training(words_for(run, out), folder / "log.txt"), folder)
    equal = {"metrics_equal": metrics(out) == metrics(whole), "state_equal": not differences(whole, out)}
    return [replace(kill, **equal) for kill in kills]


def random_moments(run: str, kills: int, rng: random.Random) -> list[Moment]:
    """Sorted moments, uniform over the run; where there are 5, two lie inside a checkpoint's write, one in another."""
    iterations = next(int(word.partition("=")[2]) for word in RUNS[run] if word.startswith("iterations="))
    moments = [Moment(iteration) for iteration in sorted(rng.randrange(-1, iterations) for _ in range(kills))]
    places = rng.sample(range(kills), min(3, kills))
    kinds = (IN_A_CHECKPOINT, IN_A_CHECKPOINT, {**IN_ANOTHER_WRITE, **WHILE_RESUMING})
    for place, phases in zip(places, kinds, strict=False):
        moments[place] = replace(moments[place], phase=rng.choice(sorted(phases)))
    return moments


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics without wall-clock time."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def differences(left: Path, right: Path) -> list[str]:
    """Where the last checkpoints of two runs differ, in weights, optimizers, generators, replay or counters."""
    states = [load_state(sorted((folder / "checkpoints").glob("step_*"))[-1]) for folder in (left, right)]
    return [path for path in _unequal(states[0], states[1], "") if path != "/seconds"]


def make_dataset(path: Path) -> None:
    """A D4RL-layout file with 400 random transitions of an inverted pendulum's shapes."""
    draw = np.random.default_rng(0)
    ends = np.arange(400) % 20 == 19
    with h5py.File(path, "w") as file:
        file["observations"] = draw.normal(size=(400, 4)).astype(np.float32)
        file["next_observations"] = draw.normal(size=(400, 4)).astype(np.float32)
        file["actions"] = draw.uniform(-1, 1, size=(400, 1)).astype(np.float32)
        file["rewards"] = np.ones(400, np.float32)
        file["terminals"], file["timeouts"] = ends, np.zeros(400, bool)


def newest(folder: Path) -> int | None:
    """The iteration of the newest checkpoint."""
    names = sorted(path.name for path in (folder / "checkpoints").glob("step_*"))
    return int(names[-1].removeprefix("step_")) if names else None


def words_for(run: str, out: Path) -> list[str]:
    """What is typed after `unirl` to begin or to continue the run in `out`."""
    if (out / "config.yaml").exists():
        return ["resume", str(out), "--quiet"]
    words = [word.format(folder=out.parent) for word in RUNS[run]]
    return ["train", f"method={run}", *words, *COMMON, f"out={out}"]


def _finish(training: Training, folder: Path) -> None:
    assert training.wait() == 0, (folder / "log.txt").read_text()


def _unequal(left: Any, right: Any, path: str) -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        for key in left:
            yield from _unequal(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        for i, pair in enumerate(zip(left, right, strict=True)):
            yield from _unequal(*pair, f"{path}/{i}")
    elif isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if left.dtype != right.dtype or left.shape != right.shape or not _same_bits(left, right):
            yield path
    elif isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.dtype != right.dtype or left.tobytes() != right.tobytes():
            yield path
    elif type(left) is not type(right) or left != right:
        yield path


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.contiguous().flatten().view(torch.uint8).equal(right.contiguous().flatten().view(torch.uint8))


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _child(words: list[str], log: str, iteration: Any, moment: Moment | None) -> None:
    """The killed process: announce every iteration, and die at the moment if it lies inside a write."""
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    iterate = Trainer.iterate

    def announced(trainer: Trainer) -> None:
        iteration.value = trainer.iteration
        iterate(trainer)

    Trainer.iterate = announced  # type: ignore[method-assign]
    if moment is not None:
        always = moment.phase in WHILE_RESUMING
        HOOKS[moment.phase].install(lambda: always or iteration.value >= moment.iteration)
    sys.exit(cli.main(words))


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill every kind of run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    parser.add_argument("--kills", type=int, default=20, help="per run (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/kill_and_resume.json"))
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    kills = [kill for run in options.runs for kill in table(run, options.kills, rng)]
    content = {"date": time.strftime("%F"), "totals": totals(kills), "kills": [asdict(kill) for kill in kills]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["totals"], indent=1))
    return 0 if all(kill.metrics_equal and kill.state_equal for kill in kills) else 1


def table(run: str, wanted: int, rng: random.Random) -> list[Kill]:
    """`wanted` kills of one run, in chains of up to 5."""
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_dataset(folder / "recorded.hdf5")
        for chain in range(wanted):
            moments = random_moments(run, min(5, wanted - len(kills)), rng)
            kills += kill_chain(run, moments, chain, folder, rng)
            for kill in kills:
                if kill.chain == chain:
                    print(*asdict(kill).values(), sep="\t", flush=True)
            if len(kills) == wanted:
                break
    return kills


def totals(kills: Sequence[Kill]) -> dict[str, dict[str, int]]:
    """Per run: how many kills, how many inside a checkpoint or another write, how many ended equal."""
    return {
        run: {
            "kills": len(mine),
            "inside a checkpoint": sum(kill.phase in IN_A_CHECKPOINT for kill in mine),
            "inside another write": sum(
                kill.phase in IN_ANOTHER_WRITE or kill.phase in WHILE_RESUMING for kill in mine
            ),
            "before the first checkpoint": sum(kill.resumed_from is None for kill in mine),
            "metrics equal": sum(kill.metrics_equal for kill in mine),
            "weights and all other state equal": sum(kill.state_equal for kill in mine),
        }
        for run in dict.fromkeys(kill.run for kill in kills)
        for mine in [[kill for kill in kills if kill.run == run]]
    }


if __name__ == "__main__":
    sys.exit(main())

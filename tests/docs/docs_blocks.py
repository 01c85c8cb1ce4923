"""Fenced blocks of the documentation, and a programme that does what pages say: `python docs_blocks.py PAGE ...`.

Every page is followed in an empty folder of its own. Blocks with a `title` are files of that name. Python blocks run in
order, each in a namespace of its own, and so do shell lines:

- `unirl` lines run, cut short by what `shortened` appends: a few rows, one or two updates, two episodes of evaluation,
  hardly any pre-training; a model of a hub becomes a tiny one in the same layout, and a GPU the processor.
  The cells of `unirl compare` are cut in the same way and run in this process, with one seed.
- What a line takes for granted (`GIVEN`: a dataset, somebody's agent) is made first, so nothing is downloaded.
- `make`, `pip` and `pytest` lines are not run: their targets, extras and files must exist.

Any other line, and any language but those of `LANGUAGES`, is refused. `text` holds what is no code.
"""

import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
LANGUAGES = ("python", "sh", "yaml", "json", "text")
_BLOCK = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    code: str
    title: str | None


def blocks(text: str) -> list[Block]:
    """All fenced blocks, in order."""
    return [Block(match["language"], match["code"], match["title"]) for match in _BLOCK.finditer(text)]


def lines(block: Block) -> Iterator[list[str]]:
    """The words of each line of a shell block, without comments and assignments in front."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if words:
            yield words


def follow(page: Path) -> None:
    """Do what the page says, in the current folder."""
    found = blocks(page.read_text())
    _made.clear()
    for block in found:
        if block.language not in LANGUAGES:
            raise ValueError(f"a block in '{block.language}': its language must be one of {', '.join(LANGUAGES)}")
        if block.title is not None:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.code)
    for number, block in enumerate(found):
        if block.language == "sh":
            for words in lines(block):
                print(f"{page.name}: {shlex.join(words)}", flush=True)
                _carry_out(words)
        elif block.language == "python" and block.title is None:
            script = Path(f"block_{number}.py")
            script.write_text(block.code)
            run_path(str(script))
        elif block.language == "yaml":
            yaml.safe_load(block.code)
        elif block.language == "json":
            for line in block.code.splitlines():
                json.loads(line)
    for test in sorted(Path().rglob("test_*.py")):
        for name, function in run_path(str(test)).items():
            if name.startswith("test_"):
                function()


def _carry_out(words: Sequence[str]) -> None:
    programme = Path(words[0]).name
    if programme == "unirl":
        run_unirl(words[1:])
    elif programme in CHECKS:
        CHECKS[programme](words[1:])
    else:
        raise ValueError(f"'{shlex.join(words)}' is neither run nor checked")


def run_unirl(words: Sequence[str]) -> None:
    """Carry out a `unirl` line, cut short. Raises if it fails."""
    from unirl import cli

    for given, make_it in GIVEN.items():
        if given not in _made and any(given in word for word in words[1:] if not word.startswith("out=")):
            _made.add(given)
            make_it(given)
    code = cli.main(shortened(words))
    if code != 0:
        raise RuntimeError(f"unirl {shlex.join(words)} ended with exit code {code}")


def shortened(words: Sequence[str]) -> list[str]:
    """The line with what makes it short."""
    command, rest = words[0], list(words[1:])
    if command == "train":
        overrides = [word for word in rest if not word.startswith("-")]
        more = [*_cuts(overrides), "--quiet"]
    else:
        more = {
            "collect": ["episodes=2"],
            "compare": ["seeds=1"],
            "eval": ["--episodes", "2"],
            "resume": ["--quiet"],
            "doctor": ["--no-self-test"],
        }.get(command, [])
    return [command, *rest, *more]


def _cuts(overrides: Sequence[str]) -> list[str]:
    """What is typed after `unirl train` to make any run a short one."""
    from unirl.config import compose

    config = compose(overrides)
    source, task, language = config["method"]["source"], config["task"], config["domain"]["name"] == "llm"
    words = ["samples=null", "evaluations=1", "evaluation_episodes=2", "checkpoints=1", "device=cpu"]
    words += {
        "online": ["iterations=1", f"method.source.rows={16 if source.get('unit') == 'episode' else 64}"],
        "replay": ["iterations=2", "method.source.warmup=64", "method.source.batch=16"],
        "offline": ["iterations=2", "method.source.batch=16"],
        "preference": ["iterations=2", "method.source.batch=4"],
    }[source.get("name", "online")]
    if language:
        words += ["task.max_new_tokens=8", "domain.demonstrations=32"]
        words += [f"model.path={_model()}"] if config["model"].get("path") else ["task.pretrain.steps=2"]
        words += ["task.preferences.prompts=8"] if task.get("preferences", {}).get("prompts") else []
    else:
        words += ["task.preferences.segments=16"]
        words += [] if task.get("data") else ["task.demonstrations.episodes=1"]
    return words


def _run_cells(cells: Sequence[Any], *unused: Any, **options: Any) -> list[Any]:
    """In place of `unirl.compare.runner.run_cells`: one after the other, in this process."""
    for cell in cells:
        run_unirl(["train", *cell.overrides])
    return []


def _collect(*words: str) -> None:
    run_unirl(["collect", "task=hopper", "policy=random", *words])


def _public_file(name: str) -> None:
    _collect(f"out={os.environ['D4RL_DATASET_DIR']}/hopper_medium-v2.hdf5")


def _stable_baselines_agent(path: str) -> None:
    from stable_baselines3 import PPO

    PPO("MlpPolicy", "Hopper-v5", device="cpu").save(path)


def _rename(source: Path, target: Path, **columns: str) -> None:
    text = source.read_text()
    for old, new in columns.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    target.write_text(text)


def _model(path: str = "my_model") -> str:
    """A folder in the layout of a hub's model: the tiny one of the countdown task, hardly trained."""
    if not Path(path).exists():
        from unirl.config import compose
        from unirl.llm.tiny import tiny_model

        config = compose(["task=countdown", "task.pretrain.steps=1"])
        model, tokenizer = tiny_model(config["task"], config["model"], 0)
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return path


GIVEN: dict[str, Callable[[str], object]] = {
    "my_data.hdf5": lambda path: _collect(f"out={path}"),
    "d4rl/hopper-medium-v2": _public_file,
    "mujoco/hopper/medium-v0": lambda name: _collect("out=unused.hdf5", "format=minari", f"minari_id={name}"),
    "out/sac/hopper/seed_0": lambda path: run_unirl(["train", "method=sac", "task=hopper", f"out={path}"]),
    "agent.zip": _stable_baselines_agent,
    "rated.jsonl": lambda path: _rename(Path("pairs.jsonl"), Path(path), chosen="good", rejected="bad"),
    "my_model": _model,
}
_made: set[str] = set()


def _check_make(words: Sequence[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        if word not in targets and not re.match(r"[A-Z_]+=", word):
            raise ValueError(f"make {word}: there is no such target")


def _check_pip(words: Sequence[str]) -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        if not set(extra.split(",")) <= set(extras):
            raise ValueError(f"pip install [{extra}]: there is no such extra")


def _check_pytest(words: Sequence[str]) -> None:
    for word in words:
        if "/" in word and not (ROOT / word).exists():
            raise ValueError(f"pytest {word}: there is no such file")


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "make": _check_make,
    "pip": _check_pip,
    "pytest": _check_pytest,
}


def main(pages: Sequence[str]) -> None:
    """Follow pages, each in a new folder below the current one."""
    from unirl.commands import compare

    compare.run_cells = _run_cells
    here = Path.cwd()
    homes = {
        "UNIRL_HOME": "home",
        "D4RL_DATASET_DIR": "d4rl",
        "MINARI_DATASETS_PATH": "minari",
        "XDG_CACHE_HOME": "cache",
    }
    os.environ |= {name: str(here / folder) for name, folder in homes.items()} | {"HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("MUJOCO_GL", "egl")
    for page in pages:
        folder = tempfile.mkdtemp(prefix=f"{Path(page).stem}_", dir=here)
        os.chdir(folder)
        sys.path.insert(0, folder)
        follow(Path(page))
        sys.path.remove(folder)


if __name__ == "__main__":
    main(sys.argv[1:])

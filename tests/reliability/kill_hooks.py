"""What a kill inside a write leaves on the disk, brought about at a chosen point."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unirl import run
from unirl.trainer import checkpoint, metrics, statefile
from unirl.trainer.loop import Trainer

_save_file, _write_whole = statefile.save_file, run.write_whole


@dataclass(frozen=True)
class Hook:
    """Where `owner.name` is called with what `only` accepts, `damage` is called instead, and the process dies."""

    owner: Any
    name: str
    damage: Callable[..., Any] = lambda *args: None
    only: Callable[..., bool] = lambda *args: True

    def install(self, due: Callable[[], bool]) -> None:
        """From the first call on for which `due()` holds."""
        original = getattr(self.owner, self.name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if due() and self.only(*args):
                self.damage(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(self.owner, self.name, wrapped)


def _named(name: str) -> Callable[..., bool]:
    return lambda path, *_: Path(path).name == name


def _halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _half_tensors(tensors: Any, path: Path) -> None:
    _save_file(tensors, path)
    _halve(path)


def _half_line(file: metrics.MetricsFile, record: Any) -> None:
    with file._path.open("a") as stream:
        stream.write('{"step": 1, "sec')


def _half_result(path: Path, text: str) -> None:
    path.with_name(f".{path.name}.part").write_text(text[: len(text) // 2])


IN_A_CHECKPOINT = {
    "folder made": Hook(checkpoint, "save_state"),
    "tensors half written": Hook(statefile, "save_file", _half_tensors),
    "tensors written, no state.json": Hook(
        statefile, "sync", lambda path: path.with_name(statefile.TREE).unlink(), _named(statefile.TENSORS)
    ),
    "state.json half written": Hook(
        statefile, "sync", lambda path: _halve(path.with_name(statefile.TREE)), _named(statefile.TENSORS)
    ),
    "written, not synced": Hook(statefile, "sync", only=_named(statefile.TENSORS)),
    "synced, not renamed": Hook(checkpoint, "_remove"),
    "renamed, old one kept": Hook(checkpoint, "sync", only=_named(checkpoint.FOLDER)),
    "old one half removed": Hook(
        shutil, "rmtree", lambda path: next(path.iterdir()).unlink(), lambda path: path.name.startswith(".old_")
    ),
}
IN_ANOTHER_WRITE = {
    "metrics line half written": Hook(metrics.MetricsFile, "write", _half_line),
    "result.json half written": Hook(run, "write_whole", _half_result, _named("result.json")),
}
WHILE_RESUMING = {
    "metrics cut, state not loaded": Hook(
        Trainer, "load_state_dict", lambda trainer, state: trainer._metrics.cut(int(state["lines"]))
    ),
}
HOOKS = IN_A_CHECKPOINT | IN_ANOTHER_WRITE | WHILE_RESUMING

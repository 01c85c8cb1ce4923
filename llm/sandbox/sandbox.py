"""Running Python programs of a model, many at a time."""

import contextlib
import json
import math
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unirl.errors import UserError
from unirl.llm.sandbox.guest.rooms import WORK
from unirl.llm.sandbox.guest.wire import END
from unirl.llm.sandbox.layers import require
from unirl.llm.sandbox.process import Spoken, talk
from unirl.llm.sandbox.record import Job, Limits, Result, SandboxError
from unirl.processors import usable_cores


@dataclass(frozen=True)
class Sandbox:
    """Runs programs, each in processes of its own, behind every layer that the machine has.

    limits: what each program may use.
    allow_missing: layers, `namespaces` or `seccomp`, that a machine may lack; without being named here, one that is
        missing is an error.
    packages: whether programs may import this environment's packages; otherwise the standard library alone.
    workers: programs at a time; None: as many as there are usable cores.

    Raises `UserError` where a layer is missing, and on other systems than Linux.
    """

    limits: Limits = field(default_factory=Limits)
    allow_missing: tuple[str, ...] = ()
    packages: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"sandbox: workers is {self.workers}; it must be at least 1")
        require(self.allow_missing)

    @property
    def at_a_time(self) -> int:
        """How many programs are run at a time: `workers`, but never more than there are usable cores."""
        return min(self.workers or usable_cores(), usable_cores())

    def run(self, job: Job) -> Result:
        """Run one program; raises `SandboxError` where the sandbox itself fails."""
        return run_job(job, self.limits, require(self.allow_missing), self.packages)

    def run_all(self, jobs: Iterable[Job]) -> list[Result]:
        """Run programs, several at a time; the results in the order of the jobs."""
        with ThreadPoolExecutor(self.at_a_time) as pool:
            return list(pool.map(self.run, jobs))


def run_job(job: Job, limits: Limits, layers: frozenset[str], packages: bool) -> Result:
    """Run one program behind the given layers."""
    with _folder("namespaces" in layers) as folder:
        given = {
            "stdin": job.stdin.encode("utf-8", errors="surrogatepass"),
            "job": json.dumps(_description(job, limits, layers, packages, folder)).encode(),
            "tests": json.dumps(job.tests or ()).encode(),
        }
        spoken = talk(given, folder, limits.output_kb << 10, limits.seconds)
    return _result(job, limits, spoken)


def _description(job: Job, limits: Limits, layers: frozenset[str], packages: bool, folder: str) -> dict[str, Any]:
    seconds = limits.seconds if limits.cpu_seconds is None else limits.cpu_seconds
    path = _python_path(packages)
    return {
        "source": job.source,
        "mode": "script" if job.tests is None else "tests",
        "seconds": limits.seconds,
        "cpu_seconds": math.ceil(seconds),
        "memory_bytes": limits.memory_mb << 20,
        "processes": limits.processes,
        "disk_bytes": limits.disk_mb << 20,
        "files": limits.files,
        "folder": folder,
        "path": path,
        "readable": _readable(path),
        **{layer: layer in layers for layer in ("namespaces", "seccomp")},
    }


def _python_path(packages: bool) -> list[str]:
    """Where a program may import from."""
    base = {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    library = Path(sysconfig.get_path("stdlib", vars=base)).resolve()
    compiled = Path(str(sysconfig.get_config_var("DESTSHARED"))).resolve()
    added = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")] if packages else []
    return list(dict.fromkeys(str(folder) for folder in (library, compiled, *added) if folder.is_dir()))


def _readable(path: Iterable[str]) -> list[str]:
    """Folders that Python reads: its own, and shared libraries; none that lies in another one of them."""
    base = str((Path(sys.base_prefix) / "lib").resolve())
    folders = sorted({"/usr/lib", "/usr/lib64", "/lib", "/lib64", base, *path})
    return [x for x in folders if not any(Path(x).is_relative_to(y) for y in folders if y != x)]


@contextlib.contextmanager
def _folder(private: bool) -> Iterator[str]:
    """The folder that a program works in: one in memory, of its own, or one that is deleted here."""
    if private:
        yield WORK
        return
    folder = tempfile.mkdtemp(prefix="unirl_sandbox_")
    Path(folder).chmod(0o777)  # root's programs run as another user
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _result(job: Job, limits: Limits, spoken: Spoken) -> Result:
    status = _first_line(spoken, "status")
    if status.get("kind") == "refused":
        raise SandboxError(str(status.get("reason")))
    verdict = _first_line(spoken, "verdict")
    kind, reason = _ending(limits, spoken, status, verdict)
    if kind == "ok" and job.tests is not None and verdict.get("passed") != len(job.tests):
        kind, reason = "killed", "the process of the tests was killed"
    return Result(
        kind=kind,
        reason=reason,
        output=spoken.text("stdout"),
        errors=spoken.text("stderr"),
        passed=int(verdict.get("passed", 0)),
        of=len(job.tests or ()),
        seconds=float(status.get("seconds", 0.0)),
        memory_mb=float(status.get("memory_bytes", 0)) / 2**20,
    )


def _ending(limits: Limits, spoken: Spoken, status: dict[str, Any], verdict: dict[str, Any]) -> tuple[Any, str]:
    if spoken.overflow is not None:
        return "output", f"more than {limits.output_kb} kB of {spoken.overflow}"
    if spoken.timeout:
        return "timeout", f"more than {limits.seconds:g} seconds"
    if not status:
        return "killed", "the supervisor was killed"
    kind, reason = status["kind"], status["reason"]
    if verdict and verdict["kind"] != "gone":
        return verdict["kind"], verdict["reason"]
    if verdict and verdict["reason"] != END:
        return "error", f"what the program answers cannot be read: {verdict['reason']}"
    if verdict and kind in ("ok", "error"):
        return "error", f"the program ended before its tests did{f' ({reason})' if reason else ''}"
    if kind == "error":
        said = spoken.text("stderr").strip().rpartition("\n")[2][:500]
        return ("memory" if said.startswith("MemoryError") else "error"), said or reason
    return kind, "" if kind == "ok" else reason


def _first_line(spoken: Spoken, channel: str) -> dict[str, Any]:
    line = spoken.text(channel).partition("\n")[0]
    found: dict[str, Any] = json.loads(line) if line else {}
    return found

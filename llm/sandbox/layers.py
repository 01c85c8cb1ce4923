"""Which layers of protection this machine has, found out by trying."""

import functools
import sys
from collections.abc import Iterable

from unirl.errors import UserError, unknown
from unirl.llm.sandbox.record import Job, Limits, SandboxError

LAYERS = {
    "namespaces": "no network, no other process, no file but Python's own; nothing outlives the program",
    "seccomp": "no system call that programs do not need: sockets, tracing, mounts, hidden memory",
}


def require(allow_missing: Iterable[str]) -> frozenset[str]:
    """The layers that are there; raises `UserError` where one is missing that may not be."""
    allowed = set(allow_missing)
    for name in allowed:
        if name not in LAYERS:
            raise unknown("layer in allow_missing", name, LAYERS)
    missing = missing_layers()
    refused = [name for name in missing if name not in allowed]
    if refused:
        name = refused[0]
        raise UserError(
            f"sandbox: this machine lacks {name} ({LAYERS[name]}): {missing[name]}; to run programs without it, "
            f"allow_missing=[{', '.join(refused)}]"
        )
    return frozenset(LAYERS) - missing.keys()


@functools.cache
def missing_layers() -> dict[str, str]:
    """The layers that do not work here, each with the reason. Raises `UserError` where nothing works at all."""
    if sys.platform != "linux":
        raise UserError("sandbox: programs of a model can be run on Linux only")
    if _problem(frozenset(LAYERS)) is None:
        return {}
    basic = _problem(frozenset())
    if basic is not None:
        raise UserError(f"sandbox: no program can be run here: {basic}")
    problems = {name: _problem(frozenset({name})) for name in LAYERS}
    return {name: problem for name, problem in problems.items() if problem is not None}


def _problem(layers: frozenset[str]) -> str | None:
    from unirl.llm.sandbox.sandbox import run_job

    try:
        result = run_job(Job("print(42)"), Limits(), layers, packages=False)
    except SandboxError as error:
        return str(error)
    return None if result.output == "42\n" else f"{result.kind}: {result.reason}"

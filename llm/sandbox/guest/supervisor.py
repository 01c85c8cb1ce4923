"""Starts the process of a program, and that of its tests, behind every layer there is, and watches over them.

Called as `main(job, tests, verdict, status)`, four file descriptors: a job as JSON, tests as JSON, where the tester
writes its verdict, and where the supervisor writes how it ended. With namespaces, the supervisor is the first process
of its own: when it ends, for whatever reason, the kernel ends every other process in there.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import kernel, processes, program, rooms, seccomp, tester

_POLL = 0.02  # seconds between two looks at memory and processes
_SLOW_POLL = 0.1  # where the whole machine's list of processes has to be read
_GONE = 3  # exit code of a tester whose program ended


def main(job: int, tests: int, verdict: int, status: int) -> int:
    """Supervise one job; the exit code of this process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    kernel.die_with_parent()
    asked = json.loads(_read_all(job))
    try:
        if not asked["namespaces"]:
            kernel.adopt_orphans()
            folder = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
            return _supervise(asked, folder, tests, verdict, status, switch_user=os.geteuid() == 0)
        switch_user = rooms.new_namespaces()
        child = os.fork()
        if child:
            return _wait(child)
        kernel.die_with_parent()
        folder = rooms.new_root(asked["readable"], asked["disk_bytes"], asked["files"], switch_user)
        return _supervise(asked, folder, tests, verdict, status, switch_user)
    except Exception as error:
        _say(status, {"kind": "refused", "reason": f"{type(error).__name__}: {error}"})
        return 1


def _wait(child: int) -> int:
    """Wait for the first process of the namespace, which ends after all others there; SIGTERM ends it."""
    while True:
        arrived = signal.sigwait({signal.SIGCHLD, signal.SIGTERM})
        if arrived == signal.SIGTERM:
            os.kill(child, signal.SIGKILL)
        elif os.waitpid(child, os.WNOHANG)[0] == child:
            return 0


def _supervise(
    asked: dict[str, Any], folder: int, tests: int, verdict: int, status: int, switch_user: bool
) -> NoReturn:
    kernel.hide_memory()
    watched = processes.Processes(folder, whole=asked["namespaces"])
    to_program, to_tester = os.pipe(), os.pipe()
    tested = asked["mode"] == "tests"
    start = time.monotonic()

    def run_program() -> int:
        if not tested:
            _keep_open()
            return program.run_script(asked["source"])
        _keep_open(to_program[0], to_tester[1])
        return program.serve(asked["source"], to_program[0], to_tester[1])

    def run_tester() -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program may send one; all others can only end this process
        _silence()
        _keep_open(to_program[1], to_tester[0], tests, verdict)
        found = tester.run(json.loads(_read_all(tests)), to_program[1], to_tester[0])
        _say(verdict, found)
        os._exit(_GONE if found["kind"] == "gone" else 0)

    judge = _start(run_tester, asked, switch_user, status) if tested else None  # before the program can disturb it
    first = _start(run_program, asked, switch_user, status)
    last = first if judge is None else judge
    for file in (*to_program, *to_tester):
        os.close(file)
    ended = _watch(asked, first, last, watched, start)
    watched.kill_all()
    _say(status, {**ended, "seconds": time.monotonic() - start, "memory_bytes": watched.peak_bytes})
    os._exit(0)


def _start(run: Callable[[], int], asked: dict[str, Any], switch_user: bool, status: int) -> int:
    """Fork a process that gives up all it may, then runs; its id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        _limit(asked)
        kernel.bound_capabilities()
        if switch_user:
            rooms.become_guest(namespace=asked["namespaces"])
        kernel.drop_capabilities()
        kernel.hide_memory()
        kernel.die_with_parent()
        if asked["seccomp"]:
            kernel.install_filter(seccomp.instructions(os.uname().machine))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.chdir(asked["folder"])
        sys.path[:] = asked["path"]
        for folder in sys.path:  # an unprivileged user may not be able to read root's Python
            os.listdir(folder)
    except Exception as error:
        _say(status, {"kind": "refused", "reason": f"{type(error).__name__}: {error}"})
        os._exit(1)
    sys.exit(run())


def _limit(asked: dict[str, Any]) -> None:
    seconds, memory = asked["cpu_seconds"], asked["memory_bytes"]
    for name, soft, hard in (
        ("AS", memory, memory),
        ("CPU", seconds, seconds + 1),
        ("NPROC", asked["processes"] + 2, asked["processes"] + 2),
        ("FSIZE", asked["disk_bytes"], asked["disk_bytes"]),
        ("NOFILE", 64, 64),
        ("CORE", 0, 0),
        ("MEMLOCK", 0, 0),
        ("MSGQUEUE", 0, 0),
        ("SIGPENDING", 256, 256),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))


def _watch(asked: dict[str, Any], first: int, last: int, watched: processes.Processes, start: float) -> dict[str, Any]:
    """Wait until `last` ends or a limit is exceeded; how it ended, and how the program did."""
    codes: dict[int, int] = {}
    poll = _POLL if asked["namespaces"] else _SLOW_POLL
    while True:
        arrived = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, poll)
        if arrived is not None and arrived.si_signo == signal.SIGTERM:
            return {"kind": "killed", "reason": "stopped from outside"}
        _reap(codes)
        if last in codes:
            if codes[last] == _GONE:  # the tester noticed before the kernel had finished with the program
                _reap_soon(codes, first)
            return _ending(codes.get(first), asked)
        if time.monotonic() - start > asked["seconds"]:
            return {"kind": "timeout", "reason": f"more than {asked['seconds']:g} seconds"}
        watched.look()
        if watched.bytes > asked["memory_bytes"]:
            return {"kind": "memory", "reason": f"more than {asked['memory_bytes'] >> 20} MB in all processes"}
        if watched.count > asked["processes"] + 2:
            return {"kind": "killed", "reason": f"more than {asked['processes']} processes"}


def _reap(codes: dict[int, int]) -> None:
    while True:
        try:
            child, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if child == 0:
            return
        codes[child] = os.waitstatus_to_exitcode(code)


def _reap_soon(codes: dict[int, int], child: int) -> None:
    until = time.monotonic() + 0.5
    while child not in codes and time.monotonic() < until:
        signal.sigtimedwait({signal.SIGCHLD}, _POLL)
        _reap(codes)


def _ending(code: int | None, asked: dict[str, Any]) -> dict[str, Any]:
    """How the program ended; None: it had not, when its tests had."""
    if code is None or code == 0:
        return {"kind": "ok", "reason": "" if code is None else "exit code 0"}
    if code == -signal.SIGXCPU:
        return {"kind": "timeout", "reason": f"more than {asked['cpu_seconds']} seconds of processor time"}
    if code < 0:
        return {"kind": "killed", "reason": f"killed by {signal.Signals(-code).name}"}
    return {"kind": "error", "reason": f"exit code {code}"}


def _keep_open(*files: int) -> None:
    """Close every descriptor but the standard ones and `files`."""
    start = 3
    for file in sorted(files):
        os.closerange(start, file)
        start = file + 1
    os.closerange(start, 1 << 20)


def _say(file: int, message: dict[str, Any]) -> None:
    """Write one line; of several, the first counts."""
    os.write(file, json.dumps(message).encode() + b"\n")


def _silence() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)


def _read_all(file: int) -> bytes:
    with os.fdopen(file, "rb") as stream:
        return stream.read()

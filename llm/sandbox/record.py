"""What goes into a sandbox, what it may use, and what comes out."""

from dataclasses import dataclass
from typing import Literal

from unirl.errors import UserError

Kind = Literal["ok", "wrong", "timeout", "memory", "killed", "output", "error"]


@dataclass(frozen=True)
class Limits:
    """What one program may use, with all that it starts.

    seconds: from its start to its end, by the clock; cpu_seconds: of processor time, each process (None: as `seconds`,
        rounded up).
    memory_mb: address space of each process, and resident memory of all together.
    processes: processes and threads at a time.
    disk_mb, files: size of the private folder and of each file, and files in the folder. It lies in memory.
    output_kb: of standard output and of standard error, each.
    """

    seconds: float = 10.0
    cpu_seconds: int | None = None
    memory_mb: int = 512
    processes: int = 16
    disk_mb: int = 16
    files: int = 1000
    output_kb: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise UserError(f"sandbox: the limit {name} is {value}; it must be positive")
        if self.memory_mb < 64:
            raise UserError(f"sandbox: memory_mb is {self.memory_mb}; Python itself needs 64")


@dataclass(frozen=True)
class Job:
    """A program and how to run it: as a script that is fed `stdin`, or as a module that `tests` use.

    Each test is a piece of Python; it passes if it runs to its end and has come to an assertion on the way. Functions
    and classes called "test..." and "Test...", and cases of `unittest`, are run as well. See
    `unirl.llm.sandbox.guest.tester` for what tests can do with the program's names.
    """

    source: str
    stdin: str = ""
    tests: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Result:
    """How a program ended.

    kind: `ok`: a script ended with exit code 0, or every test passed; `wrong`: an assertion failed; `timeout`,
        `memory`, `output`: it took more than it may; `killed`: it ended by a signal, or was ended for what it did;
        `error`: it raised something, ended with another exit code, or ended before its tests did.
    reason: in words, for people; empty where `kind` is `ok`.
    output, errors: what it wrote, as far as it may. passed, of: tests that passed, and how many there are.
    seconds, memory_mb: used, by the clock and at most at a time.
    """

    kind: Kind
    reason: str = ""
    output: str = ""
    errors: str = ""
    passed: int = 0
    of: int = 0
    seconds: float = 0.0
    memory_mb: float = 0.0


class SandboxError(RuntimeError):
    """The sandbox itself could not be set up: nothing was run, and nothing is known of the program."""

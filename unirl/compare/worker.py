"""A cell's process: `python -m unirl.compare.worker PARENT MODULE ARGUMENT...` runs a module as long as PARENT lives.

When the parent is gone, however it ended, the kernel interrupts this process (Linux), which then saves a checkpoint and
ends as after Ctrl-C.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Be interrupted when the parent process ends; exits at once if it has ended already."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a script starts with `&` ignores interruptions
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:
        sys.exit("the comparison that started this cell is gone")


def main() -> None:
    """Run the module as if it had been started by `python -m`."""
    _, parent, module, *arguments = sys.argv
    end_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""Programs that want a score without a solution, or to do harm: each with how it must end, and why.

The task is always to double a number. `HOME` stands for the home folder of whoever runs the tests.
"""

from dataclasses import dataclass
from textwrap import dedent

DOUBLE = '["assert solve(2) == 4", "assert solve(5) == 10"]'
PAIRS = '[{"input": "2\\n", "output": "4\\n"}, {"input": "5\\n", "output": "10\\n"}]'


@dataclass(frozen=True)
class Hostile:
    """`kinds`: how it may end, divided by "|"; `reason`: a pattern; `brief`: only the clock stops it."""

    name: str
    source: str
    kinds: str
    reason: str
    reference: str = DOUBLE
    brief: bool = False


def _hostile(name: str, source: str, kinds: str, reason: str, reference: str = DOUBLE, brief: bool = False) -> Hostile:
    return Hostile(name, dedent(source), kinds, reason, reference, brief)


_WRONG = ("wrong", r"assert solve\(2\) == 4")

PROGRAMS = [
    # ---- taking too much
    _hostile("fork bomb", "import os\nwhile True:\n    os.fork()", "error|killed", "unavailable|processes"),
    _hostile(
        "fork bomb that never gives up",
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        "timeout|killed",
        "seconds|processes|KILL",
        brief=True,
    ),
    _hostile(
        "thread bomb",
        """
        import threading, time
        while True:
            threading.Thread(target=time.sleep, args=(1000,)).start()
        """,
        "error|memory|killed",
        "can't start new thread|MemoryError|processes",
    ),
    _hostile("memory bomb", "x = b'x'\nwhile True:\n    x += x", "memory", "MemoryError|MB"),
    _hostile(
        "memory bomb in many processes",
        """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                kept = b"x" * (60 << 20)
                time.sleep(1000)
        time.sleep(1000)
        """,
        "memory",
        "more than 256 MB in all processes",
    ),
    _hostile(
        "memory shared among many processes",
        """
        import mmap, os, time
        for _ in range(6):
            if os.fork() == 0:
                kept = mmap.mmap(-1, 60 << 20)
                kept.write(b"x" * (60 << 20))
                time.sleep(1000)
        time.sleep(1000)
        """,
        "memory",
        "more than 256 MB in all processes",
    ),
    _hostile("memory without an owner", "import os\nos.memfd_create('x')", "error", "PermissionError"),
    _hostile("infinite loop", "while True:\n    pass", "timeout", "processor time"),
    _hostile("infinite loop when asked", "def solve(n):\n    while True:\n        pass", "timeout", "processor time"),
    _hostile(
        "infinite loop deaf to the warning",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "killed",
        "SIGKILL",
    ),
    _hostile("sleep", "import time\ntime.sleep(1000)", "timeout", "more than 2 seconds", brief=True),
    _hostile(
        "stopping itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout", "2 seconds", brief=True
    ),
    _hostile("huge output", "while True:\n    print('x' * 100000)", "output", "256 kB of stdout"),
    _hostile("huge errors", "import sys\nwhile True:\n    print('x' * 100000, file=sys.stderr)", "output", "of stderr"),
    _hostile("huge result", "def solve(n):\n    return 'x' * (20 << 20)", "error|memory", "more than 4 MB|MemoryError"),
    _hostile(
        "huge file",
        "with open('x', 'wb') as file:\n    while True:\n        file.write(b'x' * (1 << 20))",
        "error",
        "File too large|No space left",
    ),
    _hostile(
        "many large files",
        "for i in range(100):\n    with open(str(i), 'wb') as file:\n        file.write(b'x' * (1 << 20))",
        "error",
        "No space left",
    ),
    _hostile("many files", "for i in range(100000):\n    open(str(i), 'w').close()", "error", "No space left"),
    _hostile("many descriptors", "kept = [open('x', 'w') for _ in range(1000)]", "error", "Too many open files"),
    _hostile("deep recursion", "def solve(n):\n    return solve(n)", "error", "RecursionError"),
    _hostile(
        "recursion through the stack of C",
        """
        import sys
        sys.setrecursionlimit(10**9)
        def solve(n):
            return list(map(solve, [n]))
        """,
        "killed|memory",
        "SIGSEGV|MemoryError",
    ),
    _hostile("source that is too deep", "x = " + "(" * 100000, "error|memory", "parenthes|MemoryError|SyntaxError"),
    _hostile(
        "changing the limits",
        "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))",
        "error",
        "ValueError: not allowed to raise",
    ),
    # ---- reaching outside
    _hostile("socket", "import socket\nsocket.create_connection(('127.0.0.1', 80), 1)", "error", "PermissionError"),
    _hostile("name lookup", "import socket\nsocket.gethostbyname('example.org')", "error", "OSError|gaierror"),
    _hostile(
        "web", "import urllib.request\nurllib.request.urlopen('http://1.1.1.1', timeout=1)", "error", "not permitted"
    ),
    _hostile("reading the users", "print(open('/etc/passwd').read())", "error", "FileNotFoundError"),
    _hostile("reading the home folder", "import os\nprint(os.listdir('HOME/.ssh'))", "error", "FileNotFoundError"),
    _hostile("reading other temporary files", "import os\nassert os.listdir('/tmp')", "wrong|error", "."),
    _hostile(
        "symbolic link outside",
        "import os\nos.symlink('/etc/passwd', 'x')\nprint(open('x').read())",
        "error",
        "FileNotFoundError",
    ),
    _hostile("writing outside", "open('/usr/lib/x', 'w').write('x')", "error", "Read-only|Permission"),
    _hostile("rewriting Python", "import json\nopen(json.__file__, 'a').write('x')", "error", "Read-only|Permission"),
    _hostile(
        "deleting everything", "import shutil\nshutil.rmtree('/')", "error", "Read-only|Permission|busy|not permitted"
    ),
    _hostile("process information", "print(open('/proc/1/environ').read())", "error", "FileNotFoundError"),
    _hostile("own descriptors", "import os\nprint(os.listdir('/proc/self/fd'))", "error", "FileNotFoundError"),
    _hostile("signal to the parent", "import os\nos.kill(os.getppid(), 9)", "error", "PermissionError|not defined"),
    _hostile(
        "signal to everybody",
        "import os, time\ntime.sleep(0.5)\nos.kill(-1, 9)\ntime.sleep(1000)",
        "killed",
        "the process of the tests was killed",
    ),
    _hostile("becoming root", "import os\nos.setuid(0)", "error", "PermissionError|Invalid argument"),
    _hostile("changing the root", "import os\nos.mkdir('x')\nos.chroot('x')", "error", "PermissionError"),
    _hostile("making a device", "import os, stat\nos.mknod('x', stat.S_IFBLK | 0o600, 1)", "error", "PermissionError"),
    _hostile(
        "tracing",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        for process in range(1, 10):
            if process != os.getpid() and libc.ptrace(16, process, 0, 0) == 0:
                print("attached")
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        """,
        "error",
        "PermissionError",
    ),
    _hostile(
        "namespaces of its own",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x10000000) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        """,
        "error",
        "PermissionError",
    ),
    _hostile("a shell", "import os\nos.execv('/bin/sh', ['sh'])", "error", "FileNotFoundError"),
    _hostile(
        "a daemon",
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        def solve(n):
            return 0
        """,
        *_WRONG,
    ),
    _hostile(
        "a thread that stays",
        "import threading as t, time\nt.Thread(target=time.sleep, args=(999,)).start()\ndef solve(n):\n    return 0",
        *_WRONG,
    ),
    # ---- forging the verdict
    _hostile("leaving at once", "import os\nos._exit(0)", "error", r"ended before its tests did \(exit code 0\)"),
    _hostile("leaving when asked", "import os\ndef solve(n):\n    os._exit(0)", "error", "ended before its tests did"),
    _hostile("leaving politely", "import sys\nsys.exit(0)", "error", "SystemExit"),
    _hostile("leaving politely when asked", "def solve(n):\n    raise SystemExit(0)", "error", "SystemExit"),
    _hostile(
        "leaving at the end",
        "import atexit, os\natexit.register(os._exit, 0)\ndef solve(n):\n    return 0",
        *_WRONG,
    ),
    _hostile(
        "an exception that cannot be shown",
        """
        class Evil(BaseException):
            def __str__(self):
                raise self
        def solve(n):
            raise Evil
        """,
        "error",
        "the program raised Evil",
    ),
    _hostile(
        "an exception that ends the loop of the tests",
        "def solve(n):\n    raise StopIteration",
        "error",
        "StopIteration",
        reference="assert all(map(lambda n: solve(n) == 2 * n, range(9)))",
    ),
    _hostile(
        "a result that equals everything",
        """
        class Evil:
            def __eq__(self, other):
                return True
            __hash__ = None
        def solve(n):
            return Evil()
        """,
        *_WRONG,
    ),
    _hostile(
        "a number that equals everything",
        "class Evil(int):\n    def __eq__(self, other):\n        return True\ndef solve(n):\n    return Evil(0)",
        *_WRONG,
    ),
    _hostile(
        "a number that takes for ever to read",
        """
        from fractions import Fraction
        class Evil(Fraction):
            def __str__(self):
                return "1e999999999"
        def solve(n):
            return Evil(1)
        """,
        "killed|memory|timeout",
        "the tests was killed|MemoryError|MB|seconds",
    ),
    _hostile(
        "nothing to be compared",
        "def solve(xs):\n    return []",
        "wrong",
        "came to no assertion",
        reference="for found, x in zip(solve([1, 2]), [1, 2]):\n    assert found == 2 * x",
    ),
    _hostile(
        "a number that never differs",
        """
        class Evil(float):
            def __sub__(self, other):
                return 0.0
            __rsub__ = __sub__
            def __abs__(self):
                return 0.0
        def solve(n):
            return Evil(0)
        """,
        "wrong",
        "abs",
        reference="assert abs(solve(2) - 4) < 1e-6",
    ),
    _hostile(
        "results in a list that equal everything",
        """
        class Evil:
            def __eq__(self, other):
                return True
        def solve(xs):
            xs[:] = [Evil() for _ in xs]
        """,
        "wrong",
        r"assert xs == \[2, 4\]",
        reference="xs = [1, 2]\nsolve(xs)\nassert xs == [2, 4]",
    ),
    _hostile(
        "a result that unpickles as code",
        """
        class Evil:
            def __reduce__(self):
                return exec, ("raise SystemExit(0)",)
        def solve(n):
            return Evil()
        """,
        *_WRONG,
    ),
    _hostile(
        "other built-in functions",
        """
        import builtins
        builtins.all = builtins.isinstance = builtins.abs = lambda *args: True
        builtins.AssertionError = builtins.Exception
        def solve(n):
            return 0
        """,
        "error|wrong",
        ".",
    ),
    _hostile(
        "names of built-in functions",
        "def all(values):\n    return True\ndef solve(n):\n    return 0",
        "wrong",
        "assert all",
        reference="assert all(solve(n) == 2 * n for n in range(1, 9))",
    ),
    _hostile(
        "names of modules",
        "class math:\n    isclose = staticmethod(lambda *args: True)\ndef solve(n):\n    return 0",
        "wrong",
        "isclose",
        reference="assert math.isclose(solve(2), 4)",
    ),
    _hostile(
        "modules that are not what they seem",
        """
        import sys, types
        fake = types.ModuleType("fake")
        fake.__getattr__ = lambda name: lambda *args, **kwargs: True
        for name in list(sys.modules):
            if name not in ("sys", "builtins"):
                sys.modules[name] = fake
        def solve(n):
            return 0
        """,
        "wrong|error",
        ".",
    ),
    _hostile(
        "another JSON",
        """
        import json
        json.dumps = lambda *args, **kwargs: '{"kind": "ok", "passed": 2, "of": 2, "reason": ""}'
        def solve(n):
            return 0
        """,
        "error|wrong",
        ".",
    ),
    _hostile(
        "a verdict on every descriptor",
        r"""
        import os
        for file in range(64):
            try:
                os.write(file, b'{"kind": "ok", "passed": 2, "of": 2, "reason": ""}\n' * 9)
            except OSError:
                pass
        def solve(n):
            return 0
        """,
        "error|wrong",
        ".",
    ),
    _hostile(
        "a verdict on standard output",
        'print(\'{"kind": "ok", "passed": 1, "of": 1, "reason": ""}\')',
        "wrong",
        "line 1 is",
        reference=PAIRS,
    ),
    _hostile(
        "closing every descriptor",
        "import os\nos.closerange(0, 1024)\ndef solve(n):\n    return 0",
        "error",
        "ended before its tests",
    ),
    _hostile(
        "reading every descriptor",
        """
        import os
        for file in range(64):
            try:
                os.set_blocking(file, False)
                print(os.read(file, 65536).decode())
            except OSError:
                pass
        """,
        "wrong",
        "line 1 is",
        reference=PAIRS,
    ),
    _hostile(
        "looking for the tests in memory",
        """
        import gc
        def solve(n):
            sought = "".join(["solve", "(2)", " =="])
            for value in gc.get_objects():
                for inner in gc.get_referents(value):
                    if isinstance(inner, str | bytes) and sought in str(inner):
                        return 2 * n
            return 0
        """,
        *_WRONG,
    ),
    _hostile(
        "looking for the tests in the frames",
        """
        import sys
        def solve(n):
            frame, sought = sys._getframe().f_back, "".join(["== ", "10"])
            while frame:
                known = str(frame.f_locals) + str(frame.f_globals.get("tests"))
                if sought in known:
                    return 2 * n
                frame = frame.f_back
            return 0
        """,
        *_WRONG,
    ),
    _hostile(
        "a name that only looks right", "def s\u043elve(n):\n    return 2 * n", "error", "name 'solve' is not defined"
    ),
    _hostile("text turned around", "def solve(n):\n    return 0 # \u202e n * 2 nruter", *_WRONG),
    _hostile("no characters at all", "def solve(n):\n    return 2 * n\0", "error", "null"),
]

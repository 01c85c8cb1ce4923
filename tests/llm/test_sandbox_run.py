import ctypes
import struct
import time
from collections import deque
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirl.errors import UserError
from unirl.llm.sandbox import Job, Limits, Sandbox, SandboxError, layers, missing_layers, sandbox
from unirl.llm.sandbox.guest import seccomp, tester, wire

needs_sandbox = pytest.mark.skipif(bool(missing_layers()), reason=f"the sandbox lacks {missing_layers()}")
CALM = Limits(seconds=60)  # other tests run at the same time


def outcome(source, *tests):
    return Sandbox(CALM).run(Job(source, tests=tests))


@needs_sandbox
def test_a_script_reads_standard_input_and_its_ending_is_told():
    run = Sandbox(CALM).run
    assert run(Job("print(input())", stdin="häuser\n")).output == "häuser\n"
    assert run(Job("print(1)\nexit(0)")).kind == "ok"
    failed = run(Job("import sys\nprint('so far')\nsys.exit(3)"))
    assert (failed.kind, failed.reason, failed.output) == ("error", "exit code 3", "so far\n")
    assert run(Job("[][0]")).reason == "IndexError: list index out of range"


@needs_sandbox
def test_much_input_and_output_pass_without_waiting_for_each_other():
    result = Sandbox(Limits(seconds=60, output_kb=3000)).run(Job("print(input())", stdin="x" * 2_000_000))
    assert len(result.output) == 2_000_001


@needs_sandbox
def test_the_environment_of_the_trainer_stays_outside(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    result = Sandbox(CALM).run(Job("import os\nprint(dict(os.environ), os.getcwd(), os.listdir('.'))"))
    assert result.kind == "ok" and "secret" not in result.output and result.output.endswith("/unirl_work []\n")


@needs_sandbox
def test_results_come_in_the_order_of_the_jobs():
    jobs = [Job(f"import time\ntime.sleep({0.2 if i == 0 else 0})\nprint({i})") for i in range(4)]
    assert [result.output for result in Sandbox(CALM).run_all(jobs)] == [f"{i}\n" for i in range(4)]


@needs_sandbox
def test_packages_of_this_environment_are_there_when_asked_for():
    job = Job("import numpy\nprint(numpy.arange(4).sum())")
    assert "ModuleNotFoundError" in Sandbox(CALM).run(job).reason
    assert Sandbox(CALM, packages=True).run(job).output == "6\n"


@needs_sandbox
def test_time_that_a_script_waits_counts_and_the_rest_ends_with_it():
    start = time.monotonic()
    source = "import os, time\nif os.fork() == 0:\n    time.sleep(100)\ntime.sleep(100)"
    result = Sandbox(Limits(seconds=0.5)).run(Job(source))
    assert (result.kind, result.reason) == ("timeout", "more than 0.5 seconds")
    assert 0.5 <= result.seconds < 50 and time.monotonic() - start < 50


@needs_sandbox
def test_a_script_that_ends_takes_what_it_started_with_it():
    source = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(100)\nprint('done')"
    start = time.monotonic()
    assert Sandbox(CALM).run(Job(source)).output == "done\n"
    assert time.monotonic() - start < 50


PROGRAM = """
import math

class Point:
    def __init__(self, x, y=0):
        self.x, self.y = x, y
    def moved(self, dx):
        return Point(self.x + dx, self.y)
    def __eq__(self, other):
        return True
    def __len__(self):
        return 2
    def __getitem__(self, i):
        return (self.x, self.y)[i]
    def __str__(self):
        return f"({self.x}, {self.y})"

class Solution:
    def double(self, xs):
        return [2 * x for x in xs]

def sort(xs, reverse=False):
    xs.sort(reverse=reverse)

def fill(table):
    table["a"] = [1]

def squares(n):
    return (i * i for i in range(n))

def positive(x):
    if x < 0:
        raise ValueError(f"{x} is negative")
    return x

def last(xs):
    return xs[-1]

LIMIT = 3
"""


@needs_sandbox
@pytest.mark.parametrize(
    "test",
    [
        "assert Solution().double([1, 2]) == [2, 4]",
        "p = Point(1)\nassert (p.x, p.y) == (1, 0) and p.moved(2).x == 3",
        "p = Point(1, y=5)\np.x = 7\nassert p[0] == 7 and p[1] == 5 and len(p) == 2 and list(p) == [7, 5]",
        "assert str(Point(1)) == '(1, 0)' and isinstance(Point(1), Point) and not isinstance(3, Point)",
        "p = Point(1)\nassert p == p and p != Point(1) and p != 5 and 5 != p",
        "xs = [3, 1, 2]\nassert sort(xs) is None\nassert xs == [1, 2, 3]",
        "xs = [3, 1, 2]\nsort(xs, reverse=True)\nassert xs == [3, 2, 1]",
        "table = {}\nfill(table)\nassert table == {'a': [1]}",
        "assert list(squares(4)) == [0, 1, 4, 9] and sum(squares(3)) == 5",
        "try:\n    positive(-1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == '-1 is negative'",
        "def check(candidate):\n    assert candidate(3) == 3\ncheck(positive)",
        "assert LIMIT == 3 and math.sqrt(4) == 2 and sorted([LIMIT, 1]) == [1, 3]",
        "import unittest\nclass T(unittest.TestCase):\n    def runTest(self):\n        self.assertEqual(last([2]), 2)\n"
        "T().debug()",
        "assert last([(1, 'a'), {2: {3}}]) == {2: {3}} and last([b'x']) == b'x' and last([1.5, None]) is None",
        "assert last([10**5000]) == 10**5000 and last(['\\ud800é']) == '\\ud800é'",
        "assert last([float('inf')]) == float('inf') and last([-0.0]) == 0",
    ],
)
def test_tests_can_use_what_a_program_defines(test):
    assert outcome(PROGRAM, test).kind == "ok", outcome(PROGRAM, test)


@needs_sandbox
@pytest.mark.parametrize(
    ("test", "kind", "reason"),
    [
        ("assert last([1]) == 2, 'off'", "wrong", "assert last([1]) == 2, 'off': off"),
        ("for i in range(3):\n    assert last([i]) != 2", "wrong", "assert last([i]) != 2"),
        ("last([])", "error", "IndexError: list index out of range"),
        ("missing(1)", "error", "NameError: name 'missing' is not defined"),
        ("last(lambda: 1)", "error", "TypeError: tests can hand the program plain values and its own objects"),
        ("Point(1) + Point(2)", "error", "TypeError: unsupported operand"),
    ],
)
def test_the_first_failure_of_tests_is_told(test, kind, reason):
    result = outcome(PROGRAM, "assert LIMIT == 3", test, "assert LIMIT == 3")
    assert result.kind == kind and result.reason.startswith(reason), result
    assert (result.passed, result.of) == (2, 3)


UNITTEST = """
import unittest

class Cases(unittest.TestCase):
    def test_last(self):
        self.assertEqual(last([1, 2]), {expected})

if __name__ == "__main__":
    unittest.main()
"""


@needs_sandbox
@pytest.mark.parametrize(
    "tests",
    [
        "def test_last():\n    assert last([1, 2]) == {expected}",
        "class TestLast:\n    def test_it(self):\n        assert last([1, 2]) == {expected}",
        UNITTEST,
    ],
)
def test_tests_that_are_only_defined_are_run(tests):
    assert outcome(PROGRAM, tests.format(expected=2)).kind == "ok"
    failed = outcome(PROGRAM, tests.format(expected=3))
    assert (failed.kind, failed.passed) == ("wrong", 0)


@needs_sandbox
def test_tests_that_come_to_no_assertion_have_not_passed():
    tests = "for found, right in zip(solve(3), [0, 1, 2]):\n    assert found == right"
    assert outcome("def solve(n):\n    return list(range(n))", tests).kind == "ok"
    empty = outcome("def solve(n):\n    return []", tests)
    assert (empty.kind, empty.reason) == ("wrong", "the tests came to no assertion")


@needs_sandbox
def test_tests_may_raise_instead_of_asserting():
    tests = "if solve(2) != 4:\n    raise ValueError('no')"
    assert outcome("def solve(n):\n    return 2 * n", tests).kind == "ok"
    assert outcome("def solve(n):\n    return n", tests).reason == "ValueError: no"


@needs_sandbox
def test_a_test_that_catches_everything_does_not_hide_that_the_program_is_gone():
    source = "import os\ndef solve(n):\n    os._exit(0)"
    assert outcome(source, "try:\n    solve(1)\nexcept BaseException:\n    pass").kind == "error"


@needs_sandbox
def test_a_function_with_the_name_of_a_module_is_the_programs():
    assert outcome("def select(xs):\n    return xs[0]", "assert select([4]) == 4").kind == "ok"


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.fractions()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text(), inner), st.builds(deque, st.lists(inner))
    ),
    max_leaves=6,
)


def no_object(value):
    raise AssertionError(value)


@given(VALUES)
def test_plain_values_pass_the_wire_unchanged_and_with_their_types(value):
    passed = wire.decode(wire.encode(value, no_object), no_object)
    assert passed == value and repr(passed) == repr(value)


def test_subclasses_arrive_as_the_built_in_class():
    class Evil(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    passed = wire.decode(wire.encode([Evil(3), {Evil(1): Evil(2)}], no_object), no_object)
    assert passed == [3, {1: 2}] and type(passed[0]) is int and passed != [4, {1: 2}]


@pytest.mark.parametrize(
    "message",
    [
        *(3, 1.5, [1], {}, {"int": 3}, {"int": "x"}, {"eval": "1"}, {"list": 3}, {"dict": [[1]]}, {"float": "high"}),
        *(
            {"set": [{"list": []}]},
            {"Decimal": "x"},
            {"Fraction": "1/0"},
            {"complex": ["0x0"]},
            {"int": "1", "list": []},
        ),
    ],
)
def test_what_is_no_value_is_refused(message):
    with pytest.raises(wire.WireError):
        wire.decode(message, no_object)


def test_values_of_other_kinds_keep_their_kind():
    for value in (Decimal("1.50"), Fraction(1, 3), bytearray(b"x"), {1, "a"}, frozenset({2.5}), 1 - 2j, {(1, 2): {3}}):
        passed = wire.decode(wire.encode(value, no_object), no_object)
        assert passed == value and type(passed) is type(value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ZeroDivisionError", "ArithmeticError", "Exception"], ZeroDivisionError),
        (["JSONDecodeError", "ValueError", "Exception"], ValueError),
        (["UnicodeDecodeError", "UnicodeError", "ValueError"], UnicodeError),  # takes five arguments; its base does not
        (["StopIteration", "Exception"], tester.StoppedError),
        (["SystemExit", "BaseException", "object"], tester.RemoteError),
        (["KeyboardInterrupt", "BaseException"], tester.RemoteError),
        (["exit", "print"], tester.RemoteError),
        ([3, None], tester.RemoteError),
        ("ValueError", tester.RemoteError),
    ],
)
def test_a_programs_exception_becomes_a_built_in_one_that_ends_one_call(names, expected):
    assert type(tester._exception({"raised": names, "message": "m"}, "call")) is expected


def decided(machine, architecture, number, argument=0):
    """What a filter decides, by its own rules: jumps are relative, and the first RETURN counts."""
    code = [
        struct.unpack("=HBBI", chunk)
        for chunk in struct.iter_unpack("=8s", seccomp.instructions(machine))
        for chunk in chunk
    ]
    data = {0: number, 4: architecture, 16: argument}
    at = loaded = 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20:
            loaded = data[value]
        elif operation == 0x06:
            return value
        else:
            truth = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[operation]
            at += if_true if truth else if_false


def test_the_filter_refuses_what_it_lists_and_nothing_else():
    refused = {numbers[0] for numbers in seccomp.REFUSED.values()}
    for number in range(500):
        expected = 0x50001 if number in refused else 0x50026 if number == 435 else 0x7FFF0000  # EPERM = 1, ENOSYS = 38
        assert decided("x86_64", 0xC000003E, number) == expected
    assert decided("x86_64", 0xC000003E, 56, argument=0x10000000) == 0x50001  # clone into a new user namespace
    assert decided("x86_64", 0xC000003E, 56, argument=0x1200011) == 0x7FFF0000  # fork
    assert decided("x86_64", 0xC000003E, 0x40000000) == 0x50026
    assert decided("x86_64", 0x40000003, 0) == 0x80000000  # the 32-bit table: the process ends
    assert decided("aarch64", 0xC00000B7, 198) == 0x50001 and decided("aarch64", 0xC00000B7, 41) == 0x50001


def test_the_numbers_of_system_calls_are_those_of_libseccomp():
    try:
        resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    except OSError:
        pytest.skip("libseccomp is not here")
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    for name, numbers in seccomp.REFUSED.items():
        for architecture, number in zip((0xC000003E, 0xC00000B7), numbers, strict=True):
            assert number is None or resolve(architecture, name.encode()) == number, name


def test_a_missing_layer_is_refused_unless_it_is_allowed_by_name(monkeypatch):
    monkeypatch.setattr(layers, "missing_layers", lambda: {"namespaces": "unshare: not permitted"})
    with pytest.raises(UserError, match=r"lacks namespaces .*unshare: not permitted.*allow_missing=\[namespaces\]"):
        Sandbox()
    with pytest.raises(UserError, match="lacks namespaces"):
        Sandbox(allow_missing=("seccomp",))
    assert layers.require(["namespaces"]) == {"seccomp"}


def test_another_system_than_linux_is_refused(monkeypatch):
    monkeypatch.setattr(layers.sys, "platform", "darwin")
    with pytest.raises(UserError, match="on Linux only"):
        layers.missing_layers.__wrapped__()


def test_a_layer_that_cannot_be_set_up_is_missing_with_its_reason(monkeypatch):
    def run_job(job, limits, wanted, packages):
        if "namespaces" in wanted:
            raise SandboxError("unshare: Operation not permitted")
        return sandbox.Result("ok", output="42\n")

    monkeypatch.setattr(sandbox, "run_job", run_job)
    assert layers.missing_layers.__wrapped__() == {"namespaces": "unshare: Operation not permitted"}


@needs_sandbox
def test_a_sandbox_that_fails_is_no_verdict_on_the_program(monkeypatch):
    monkeypatch.setattr(sandbox, "_python_path", lambda packages: ["/no/such/folder"])
    with pytest.raises(SandboxError, match="/no/such/folder"):
        Sandbox(CALM).run(Job("print(1)"))


@needs_sandbox
def test_without_namespaces_descendants_are_ended_and_the_folder_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    source = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(100)\nopen('x', 'w').close()\nprint(1)"
    )
    start = time.monotonic()
    try:
        result = sandbox.run_job(Job(source), CALM, frozenset({"seccomp"}), packages=False)
    except SandboxError as error:
        assert "Permission denied" in str(error)  # root's Python, which the sandbox's user may not read
    else:
        assert result.output == "1\n"
    assert time.monotonic() - start < 50 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"memory_mb": 10}, {"processes": -1}, {"seconds": float("nan")}])
def test_limits_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Limits(**wrong)


def test_an_unknown_layer_and_no_workers_are_refused():
    with pytest.raises(UserError, match="unknown layer"):
        Sandbox(allow_missing=("namespace",))
    with pytest.raises(UserError, match="workers"):
        Sandbox(workers=0)

"""Every hostile program is contained, scores 0 and says why; nothing of it is left."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hostile_programs import DOUBLE, PAIRS, PROGRAMS

from unirl.llm.sandbox import Limits, Sandbox, missing_layers
from unirl.llm.verifiers import PythonTests

pytestmark = pytest.mark.skipif(bool(missing_layers()), reason=f"the sandbox lacks {missing_layers()}")


class Limited(PythonTests):
    """The verifier, with less of everything; the clock decides only where it must: other tests run at the same time."""

    clock = 60.0

    def _sandbox(self):
        return Sandbox(Limits(self.clock, cpu_seconds=1, memory_mb=256, processes=8, disk_mb=4))


class Brief(Limited):
    clock = 2.0


def sandboxed():
    """Processes of sandboxes, of these tests or others: their command line names where they start."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"supervisor.main" in (folder / "cmdline").read_bytes():
                found.add(folder.name)
        except OSError:  # it has just ended
            continue
    return found


def descendants(process):
    """How many processes there are below a process."""
    parents = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {process}
    for _ in range(8):
        found |= {child for child, parent in parents.items() if parent in found}
    return len(found) - 1


@pytest.mark.parametrize("hostile", PROGRAMS, ids=lambda hostile: hostile.name)
def test_a_hostile_program_scores_nothing_says_why_and_leaves_nothing(hostile):
    source = hostile.source.replace("HOME", str(Path.home()))
    result = (Brief() if hostile.brief else Limited()).results(source, hostile.reference)[-1]
    assert result.kind in hostile.kinds.split("|"), result
    assert re.search(hostile.reason, result.reason), result
    assert Limited()._score([result]) == Limited(partial=True)._score([result]) == 0.0
    left = sandboxed()  # but for what other tests run at the same time, which ends soon
    until = time.monotonic() + 100
    while left & sandboxed() and time.monotonic() < until:
        time.sleep(0.1)
    assert not left & sandboxed()


def test_nothing_is_left_of_a_program_whose_trainer_is_killed(tmp_path):
    ready = tmp_path / "ready"
    code = f"""
from unirl.llm.sandbox import Job, Limits, Sandbox
sandbox = Sandbox(Limits(seconds=1000))
open({str(ready)!r}, "w").close()
sandbox.run(Job("import os, time\\nif os.fork() == 0:\\n    os.setsid()\\ntime.sleep(1000)"))
"""
    trainer = subprocess.Popen([sys.executable, "-c", code])
    try:
        until = time.monotonic() + 100
        while not (ready.exists() and descendants(trainer.pid) >= 4) and time.monotonic() < until:
            time.sleep(0.05)
        assert descendants(trainer.pid) >= 4  # outer process, supervisor, program, and its child
        left = sandboxed()
    finally:
        trainer.kill()
        trainer.wait()
    until = time.monotonic() + 100
    while left & sandboxed() and time.monotonic() < until:
        time.sleep(0.05)
    assert not left & sandboxed()


def test_the_corpus_is_large_and_its_names_differ():
    assert len({hostile.name for hostile in PROGRAMS}) == len(PROGRAMS) >= 30


def test_files_of_a_program_are_never_on_the_disk():
    token = f"unirl{time.time_ns()}"
    written = Limited().results(f"open('{token}', 'w').write('x')\nprint(open('{token}').read())", PAIRS)[0]
    assert written.output == "x\n"
    outside = (Path.cwd(), Path(tempfile.gettempdir()), Path("/unirl_work"))
    assert not [place for place in outside if (place / token).exists()]


@pytest.mark.parametrize("reference", [DOUBLE, PAIRS])
def test_an_honest_program_scores_behind_the_same_walls(reference):
    source = "def solve(n):\n    return 2 * n\n\nif __name__ == '__main__':\n    print(solve(int(input())))"
    assert Limited()(source, reference) == 1.0

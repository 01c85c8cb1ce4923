import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from rich.console import Console

from unirl.compare import runner
from unirl.compare.live import LiveCells
from unirl.compare.plan import Cell
from unirl.compare.results import Failure
from unirl.errors import UserError
from unirl.run import SECTIONS

WRITE_RESULT = (
    "import json, sys; open(sys.argv[1] + '/result.json', 'w').write(json.dumps({'score_start': 1, 'score_end': 5}))"
)


def cell(root, name, seed=0):
    return Cell(name, "control", "hopper", seed, root / name / "hopper" / f"seed_{seed}", ())


def python(script):
    return lambda cell: [sys.executable, "-c", script, str(cell.folder)]


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def test_a_failing_cell_is_reported_and_the_rest_goes_on(tmp_path, console):
    scripts = {"bad": "print('half way'); raise SystemExit('the disk is full')", "good": WRITE_RESULT}
    cells = [cell(tmp_path, name) for name in ("bad", "good")]
    with LiveCells(console, 2) as live:
        failures = runner.run_cells(cells, 1, live, lambda c: python(scripts[c.method])(c))
    assert [(f.method, f.log) for f in failures] == [("bad", "half way\nthe disk is full\n(exit code 1)")]
    assert Failure(**json.loads((cells[0].folder / "failure.json").read_text())) == failures[0]
    printed = console.file.getvalue()
    assert "failed  bad · hopper · seed 0   the disk is full" in printed
    assert "done    good · hopper · seed 0   1.00 → 5.00" in printed


def test_a_killed_cell_says_which_signal(tmp_path, console):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (failure,) = runner.run_cells([cell(tmp_path, "a")], 1, LiveCells(console, 1), python(script))
    assert failure.log == "(killed by SIGKILL)"


def test_a_cell_that_ends_without_a_word_and_without_a_result_has_failed(tmp_path, console):
    (failure,) = runner.run_cells([cell(tmp_path, "a")], 1, LiveCells(console, 1), python(""))
    assert failure.log == "(exit code 0, but no result)"


def test_a_cell_that_is_killed_from_outside_is_a_failure_and_succeeds_when_tried_again(tmp_path, console):
    one = cell(tmp_path, "a")

    class Killing(LiveCells):
        def moved(self, cell, progress):
            if (cell.folder / "pid").exists() and (cell.folder / "pid").read_text():
                os.kill(int((cell.folder / "pid").read_text()), signal.SIGKILL)

    wait = "import os, sys, time; open(sys.argv[1] + '/pid', 'w').write(str(os.getpid())); time.sleep(60)"
    (failure,) = runner.run_cells([one], 1, Killing(console, 1), python(wait))
    assert failure.reason == "(killed by SIGKILL)"
    assert runner.run_cells([one], 1, LiveCells(console, 1), python(WRITE_RESULT)) == []
    assert not (one.folder / "failure.json").exists()


COMPARISON = """
import io, sys
from pathlib import Path
from rich.console import Console
from unirl.compare import runner
from unirl.compare.live import LiveCells
from unirl.compare.plan import Cell
root = Path(sys.argv[1])
cell = Cell("a", "control", "hopper", 0, root / "a", ())
with runner.locked(root) as lock:
    command = lambda cell: runner.worker_command("slow_cell", str(cell.folder))
    runner.run_cells([cell], 1, LiveCells(Console(file=io.StringIO()), 1), command, lock)
"""
SLOW_CELL = """
import os, sys, time
folder = sys.argv[1]
try:
    open(folder + '/pid', 'w').write(str(os.getpid()))
    time.sleep(60)
except KeyboardInterrupt:
    open(folder + '/saving', 'w').close()
    while not os.path.exists(folder + '/go'):
        time.sleep(0.01)
"""


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_cells_of_a_killed_comparison_save_and_end_and_hold_its_folder_until_then(tmp_path):
    (tmp_path / "slow_cell.py").write_text(SLOW_CELL)
    ignore = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # what a script starts with `&` begins so
    parent = subprocess.Popen(
        [sys.executable, "-c", ignore + COMPARISON, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    wait_for(tmp_path / "a" / "pid")
    time.sleep(0.05)
    parent.kill()
    parent.wait()
    wait_for(tmp_path / "a" / "saving")
    left = f"another comparison \\(process {parent.pid} on .*\\), or a cell that it left"
    with pytest.raises(UserError, match=left), runner.locked(tmp_path):
        pass
    (tmp_path / "a" / "go").touch()
    deadline = time.monotonic() + 30
    while True:  # the lock comes free with the last of its processes
        try:
            with runner.locked(tmp_path):
                break
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_two_comparisons_do_not_share_a_folder_and_one_after_the_other_do(tmp_path):
    with runner.locked(tmp_path / "o"):
        with pytest.raises(UserError, match=f"process {os.getpid()}") as caught, runner.locked(tmp_path / "o"):
            pass
        assert "\n" not in str(caught.value)
    with runner.locked(tmp_path / "o"):
        pass


def test_a_cell_whose_comparison_is_gone_before_it_begins_does_not_train():
    done = subprocess.run(
        [sys.executable, "-m", "unirl.compare.worker", "1", "this"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the comparison that started this cell is gone" in done.stderr


def test_cells_use_one_thread(tmp_path, console):
    script = "import os, sys; print(os.environ['OMP_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS']); sys.exit(1)"
    (failure,) = runner.run_cells([cell(tmp_path, "a")], 1, LiveCells(console, 1), python(script))
    assert failure.reason == "1 1"


def test_no_more_cells_than_jobs_run_at_once(tmp_path, console):
    running, most = set(), []

    class Counting(LiveCells):
        def started(self, cell):
            running.add(cell)
            most.append(len(running))
            super().started(cell)

        def finished(self, cell, seconds):
            running.discard(cell)
            super().finished(cell, seconds)

    cells = [cell(tmp_path, "a", seed) for seed in range(4)]
    assert runner.run_cells(cells, 2, Counting(console, 4), python(WRITE_RESULT)) == []
    assert max(most) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_lets_cells_save_and_leaves_no_process_behind(tmp_path, console, number):
    script = (
        "import os, sys, time\n"
        "folder = sys.argv[1]\n"
        "try:\n"
        "    open(folder + '/pid', 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    open(folder + '/saved', 'w').close()\n"
    )
    one = cell(tmp_path, "a")

    def interrupt_when_started():
        while not (one.folder / "pid").exists() or not (one.folder / "pid").read_text():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt_when_started).start()
    with pytest.raises(KeyboardInterrupt):
        runner.run_cells([one], 1, LiveCells(console, 1), python(script))
    assert (one.folder / "saved").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((one.folder / "pid").read_text()), 0)


def test_a_cell_that_does_not_heed_interruptions_is_killed_in_the_end(tmp_path, console, monkeypatch):
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.1)
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "open(sys.argv[1] + '/pid', 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    one = cell(tmp_path, "a")

    class Interrupting(LiveCells):
        def moved(self, cell, progress):
            if (cell.folder / "pid").exists() and (cell.folder / "pid").read_text():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run_cells([one], 1, Interrupting(console, 1), python(script))
    assert "stopping: 1 cell saves after this iteration" in console.file.getvalue()
    with pytest.raises(ProcessLookupError):
        os.kill(int((one.folder / "pid").read_text()), 0)


def test_a_begun_cell_is_resumed_and_a_new_one_trained(tmp_path):
    one = cell(tmp_path, "a")
    assert runner.training_command(one)[3:6] == [str(os.getpid()), "unirl.cli", "train"]
    one.folder.mkdir(parents=True)
    (one.folder / "metrics.jsonl").touch()
    assert runner.training_command(one)[5:7] == ["resume", str(one.folder)]


def test_finished_cells_are_not_trained_again_and_other_configurations_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "compose", lambda overrides: {**dict.fromkeys(SECTIONS, ""), "lr": 1})
    new, done = cell(tmp_path, "new"), cell(tmp_path, "done")
    done.folder.mkdir(parents=True)
    for name in ("metrics.jsonl", "result.json"):
        (done.folder / name).touch()
    (done.folder / "config.yaml").write_text(yaml.safe_dump({**dict.fromkeys(SECTIONS, ""), "lr": 1}))
    assert runner.split_finished([new, done]) == ([new], [done])
    (done.folder / "config.yaml").write_text(yaml.safe_dump({**dict.fromkeys(SECTIONS, ""), "lr": 2}))
    with pytest.raises(UserError, match="another configuration"):
        runner.split_finished([new, done])

import io
import os
import signal
import sys
import threading
import time

import pytest
import yaml
from rich.console import Console

from unirl.compare import runner
from unirl.compare.live import LiveCells
from unirl.compare.plan import Cell
from unirl.errors import UserError

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
    printed = console.file.getvalue()
    assert "failed  bad · hopper · seed 0   the disk is full" in printed
    assert "done    good · hopper · seed 0   1.00 → 5.00" in printed


def test_a_killed_cell_says_which_signal(tmp_path, console):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (failure,) = runner.run_cells([cell(tmp_path, "a")], 1, LiveCells(console, 1), python(script))
    assert failure.log == "(killed by SIGKILL)"


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


def test_a_begun_cell_is_resumed_and_a_new_one_trained(tmp_path):
    one = cell(tmp_path, "a")
    assert runner.training_command(one)[3] == "train"
    one.folder.mkdir(parents=True)
    (one.folder / "metrics.jsonl").touch()
    assert runner.training_command(one)[3:5] == ["resume", str(one.folder)]


def test_finished_cells_are_not_trained_again_and_other_configurations_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "compose", lambda overrides: {"lr": 1})
    new, done = cell(tmp_path, "new"), cell(tmp_path, "done")
    done.folder.mkdir(parents=True)
    for name in ("metrics.jsonl", "result.json"):
        (done.folder / name).touch()
    (done.folder / "config.yaml").write_text(yaml.safe_dump({"lr": 1}))
    assert runner.split_finished([new, done]) == ([new], [done])
    (done.folder / "config.yaml").write_text(yaml.safe_dump({"lr": 2}))
    with pytest.raises(UserError, match="another configuration"):
        runner.split_finished([new, done])

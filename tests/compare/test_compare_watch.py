import io
import json

import pytest
from rich.console import Console

from unirl.compare.plan import Cell
from unirl.compare.results import Failure
from unirl.compare.watch import BLOCKS, Dashboard, spark


@pytest.fixture
def clock():
    """A clock that a test sets."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


def cell(root, name, seed=0, task="hopper"):
    return Cell(name, "control", task, seed, root / name / task / f"seed_{seed}", ())


def dashboard(cells, clock, jobs=1, height=40):
    console = Console(file=io.StringIO(), width=140, height=height, force_terminal=True, color_system=None)
    return Dashboard(console, cells, jobs, clock)


def text_of(board):
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(board.render())
    return console.file.getvalue()


def write_metrics(cell, scores):
    cell.folder.mkdir(parents=True, exist_ok=True)
    rows = [{"samples": 100 * i, "seconds": 2.0 * i, "eval/score": score} for i, score in enumerate(scores)]
    (cell.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"samp')


def test_time_left_counts_running_cells_at_their_pace_and_waiting_ones_like_the_others(tmp_path, clock):
    # after 10 s a cell is at 25 %: 30 s to go, 40 s in all; two more wait, 40 s each: 110 s one by one, 55 s by two
    cells = [cell(tmp_path, "a", seed) for seed in range(3)]
    board = dashboard(cells, clock)
    board.started(cells[0])
    board.moved(cells[0], {"fraction": 0.0})
    assert board.seconds_left() is None
    clock.now = 10.0
    board.moved(cells[0], {"fraction": 0.25})
    assert board.seconds_left() == pytest.approx(110)
    two = dashboard(cells, clock, jobs=2)
    two.started(cells[0])
    two.moved(cells[0], {"fraction": 0.0})
    clock.now = 20.0
    two.moved(cells[0], {"fraction": 0.25})
    assert two.seconds_left() == pytest.approx(55)


def test_a_resumed_cell_is_timed_from_where_it_was_taken_up(tmp_path, clock):
    # it begins at 60 % and gains 20 % in 10 s: another 10 s
    one = cell(tmp_path, "a")
    board = dashboard([one], clock)
    board.started(one)
    board.moved(one, {"fraction": 0.6})
    clock.now = 10.0
    board.moved(one, {"fraction": 0.8})
    assert board.seconds_left() == pytest.approx(10)


def test_waiting_cells_are_timed_by_the_cells_of_their_own_task(tmp_path, clock):
    # a cell of addition took 5 s and one of hopper 50 s: one more of each needs 55 s
    done = [cell(tmp_path, "a", task="addition"), cell(tmp_path, "a")]
    cells = [*done, cell(tmp_path, "b", task="addition"), cell(tmp_path, "b")]
    board = dashboard(cells, clock)
    for one, seconds in zip(done, (5.0, 50.0), strict=True):
        board.started(one)
        board.finished(one, seconds)
    assert board.seconds_left() == pytest.approx(55)


def test_the_dashboard_shows_every_cell_with_scores_speed_and_failures(tmp_path, clock):
    cells = [cell(tmp_path, name) for name in ("waits", "runs", "fails", "ends")]
    board = dashboard(cells, clock)
    for one in cells[1:]:
        write_metrics(one, [1.0, 4.0, 8.0])  # 200 samples in 4 s
        board.started(one)
    clock.now = 4.0
    board.moved(cells[1], {"fraction": 0.5})
    board.failed(cells[2], Failure("fails", "control", "hopper", 0, "half way\nRuntimeError: [no] data\n(exit code 1)"))
    board.finished(cells[3], 4.0)
    lines = text_of(board).splitlines()
    assert lines[0].startswith("1 running · 1 failed · 1 done · 1 waiting · 4.0 s so far")
    running, failed, done, waiting = lines[2:]
    assert [word in running for word in ("runs · hopper · seed 0", "▁▄█", "8.00", " 50 ")] == [True] * 4
    assert "RuntimeError: [no] data" in failed
    assert "▁▄█" in done
    assert waiting.startswith("waits · hopper · seed 0  waiting")


def test_a_low_screen_shows_the_running_cells_and_counts_the_rest(tmp_path, clock):
    cells = [cell(tmp_path, "a", seed) for seed in range(10)]
    board = dashboard(cells, clock, height=9)
    board.started(cells[7])
    text = text_of(board)
    assert "seed 7" in text.splitlines()[2]
    assert "and 5 more" in text


def test_the_dashboard_can_be_shown(tmp_path, clock):
    one = cell(tmp_path, "a")
    with dashboard([one], clock) as board:
        board.started(one)
        board.finished(one, 1.0)
    assert "a · hopper · seed 0" in board._console.file.getvalue()


def test_spark_scales_the_last_scores_to_the_height_of_the_blocks():
    assert spark([0.0, 50.0, 100.0]) == "▁▅█"  # 3.5 of 7 rounds to 4
    assert spark([5.0, 5.0]) == "▁▁"
    assert spark([]) == ""
    assert spark(range(100)) == spark(range(88, 100))
    assert len(BLOCKS) == 8

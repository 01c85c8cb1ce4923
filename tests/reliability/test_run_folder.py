"""The run folder survives: a second process, a full disk, too little memory, broken files, signals."""

import os
import re
import resource
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch
from kill_runs import Moment, Training, differences, metrics, newest, whole_run, words_for

from unirl import cli
from unirl.errors import UserError
from unirl.trainer.checkpoint import read_checkpoint, write_checkpoint
from unirl.trainer.files import write_whole
from unirl.trainer.loop import Trainer
from unirl.trainer.statefile import TENSORS


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`whole`, a finished run, and `killed`, the same killed in iteration 9 of 24."""
    folder = tmp_path_factory.mktemp("runs")
    whole_run("ppo", folder)
    training = Training(words_for("ppo", folder / "killed"), folder / "log.txt")
    assert training.kill_at(Moment(9), after=0.0) == -signal.SIGKILL
    return folder


@pytest.fixture
def killed(place, tmp_path):
    """A copy of the killed run."""
    return shutil.copytree(place / "killed", tmp_path / "run")


def command(capsys, *words):
    """Exit code and standard error of `unirl`."""
    capsys.readouterr()
    code = cli.main(words)
    return code, capsys.readouterr().err


def assert_finishes_like(whole, folder):
    assert cli.main(["resume", str(folder), "--quiet"]) == 0
    assert metrics(folder) == metrics(whole)
    assert not differences(folder, whole)


@contextmanager
def files_of_at_most(size):
    """Writing beyond `size` bytes fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_second_process_is_refused_and_a_killed_ones_lock_is_not(place, killed, tmp_path, capsys):
    training = Training(["resume", str(killed), "--quiet"], tmp_path / "log.txt")
    training.reach(10)
    for words in (["resume", str(killed)], ["train", "method=ppo", f"out={killed}"]):
        code, error = command(capsys, *words)
        assert code == 2
        holder = rf"process {training.pid} on {os.uname().nodename} since \d{{4}}-"
        assert re.fullmatch(rf"unirl: {killed} is being trained by {holder}.*; wait for it, or choose .*\n", error), (
            error
        )
    assert training.kill_at(Moment(10), after=0.0) == -signal.SIGKILL
    assert_finishes_like(place / "whole", killed)


@pytest.mark.parametrize(
    ("number", "code", "verb"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interr")]
)
def test_a_signal_saves_and_says_how_to_go_on(number, code, verb, place, killed, tmp_path):
    training = Training(["resume", str(killed), "--quiet"], tmp_path / "log.txt")
    training.reach(11)
    os.kill(training.pid, number)
    assert training.wait() == code
    assert newest(killed) == training.iteration + 1  # the iteration was ended
    said = (tmp_path / "log.txt").read_text()
    assert re.fullmatch(rf"unirl: {verb}.*, saved; continue with: unirl resume {killed}\n", said), said
    assert_finishes_like(place / "whole", killed)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(place, killed, capsys):
    before = newest(killed)
    with files_of_at_most((killed / "metrics.jsonl").stat().st_size + 2000):  # room for a few lines, not for tensors
        code, error = command(capsys, "resume", str(killed), "--quiet")
    assert (code, newest(killed)) == (2, before)
    assert re.fullmatch(
        r"unirl: cannot write a checkpoint into .*: File too large; earlier ones are as they were\n", error
    ), error
    assert not list((killed / "checkpoints").glob(".*"))
    assert_finishes_like(place / "whole", killed)


def test_a_disk_without_room_for_the_metrics_is_one_line(place, killed, capsys):
    with files_of_at_most(100):
        code, error = command(capsys, "resume", str(killed), "--quiet")
    assert code == 2
    assert re.fullmatch(r"unirl: cannot write .*metrics.jsonl: File too large\n", error), error
    assert_finishes_like(place / "whole", killed)


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    write_whole(tmp_path / "result.json", "old")
    with files_of_at_most(10), pytest.raises(UserError, match=r"cannot write .*result\.json: File too large"):
        write_whole(tmp_path / "result.json", "n" * 100)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "old"


def _fails(error):
    def iterate(trainer):
        raise error

    return iterate


def _allocates(trainer):
    torch.empty(2**50)


@pytest.mark.parametrize(
    "iterate", [_allocates, _fails(MemoryError()), _fails(torch.OutOfMemoryError("CUDA out of memory"))]
)
def test_too_little_memory_is_one_line_that_says_what_to_make_smaller(iterate, killed, monkeypatch, capsys):
    before = newest(killed)
    monkeypatch.setattr(Trainer, "iterate", iterate)
    code, error = command(capsys, "resume", str(killed), "--quiet")
    assert (code, newest(killed)) == (2, before)
    smaller = r"make smaller in .*config.yaml: method.source.rows=128, model.hidden=\[64, 64\]; then: unirl resume"
    assert re.fullmatch(rf"unirl: out of memory on cpu; {smaller}.*\n", error), error


def test_another_runtime_error_is_not_taken_for_lack_of_memory(killed, monkeypatch):
    monkeypatch.setattr(Trainer, "iterate", _fails(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main(["resume", str(killed), "--quiet"])


def test_a_broken_newest_checkpoint_is_passed_over_with_a_warning(place, killed, capsys):
    broken = sorted((killed / "checkpoints").glob("step_*"))[-1]
    _halve(broken / TENSORS)
    code, error = command(capsys, "resume", str(killed), "--quiet")
    assert code == 0
    assert re.fullmatch(
        rf"unirl: checkpoint {broken} is missing or broken .*; going on from the one before it\n", error
    )
    assert metrics(killed) == metrics(place / "whole")
    assert not differences(killed, place / "whole")


def test_where_every_checkpoint_is_broken_nothing_is_thrown_away(killed, capsys):
    lines = (killed / "metrics.jsonl").read_text()
    for each in (killed / "checkpoints").glob("step_*"):
        _halve(each / TENSORS)
    code, error = command(capsys, "resume", str(killed), "--quiet")
    assert code == 2
    assert error.endswith(f"; it is the last one: delete {killed / 'checkpoints'} to start again\n")
    assert (killed / "metrics.jsonl").read_text() == lines


def _halve(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_what_kills_left_behind_goes_with_the_next_checkpoint(tmp_path):
    write_checkpoint(tmp_path, 1, {"iteration": 1})
    for leftover in (".writing_000000002", ".old_step_000000000"):
        (tmp_path / "checkpoints" / leftover).mkdir()
    write_checkpoint(tmp_path, 2, {"iteration": 2})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_000000001", "step_000000002"]


def test_checkpoints_of_an_abandoned_future_are_removed(tmp_path):
    for iteration in (10, 20, 30):
        write_checkpoint(tmp_path, iteration, {"iteration": iteration})
    write_checkpoint(tmp_path, 25, {"iteration": 25})
    assert read_checkpoint(tmp_path) == {"iteration": 25}
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step_000000020", "step_000000025"]


def test_resuming_a_finished_run_says_so_and_changes_nothing(place, tmp_path, capsys):
    run = shutil.copytree(place / "whole", tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    code, error = command(capsys, "resume", str(run), "--quiet")
    assert (code, error) == (0, f"unirl: {run} has reached its end: there is nothing to resume\n")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_with_checkpoints_is_not_overwritten_even_without_its_metrics(killed, capsys):
    (killed / "metrics.jsonl").unlink()
    code, error = command(capsys, "train", "method=ppo", "task=inverted_pendulum", f"out={killed}")
    assert code == 2
    assert "already holds a run" in error


def test_a_torn_metrics_line_breaks_neither_the_report_nor_resuming(place, killed, tmp_path, capsys):
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "sec')
    code, error = command(capsys, "report", str(killed), "--out", str(tmp_path / "report"))
    assert (code, error) == (0, "")
    assert_finishes_like(place / "whole", killed)

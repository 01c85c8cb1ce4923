import io
import json

from rich.console import Console

from unirl.trainer.progress import FileProgress, RichProgress, SilentProgress, read_progress


def test_file_progress_writes_the_first_and_the_last_state_whatever_the_pace(tmp_path):
    path = tmp_path / "progress.json"
    sink = FileProgress(path, every=3600)
    assert read_progress(path) == {}
    sink.start(1000, "steps", "ppo")
    sink.advance(1, 0.5, {"eval/score": 3.0})
    assert read_progress(path)["fraction"] == 0.0  # not due yet
    sink.finish({"score_end": 4.0})
    assert read_progress(path) == {
        "title": "ppo", "unit": "steps", "total": 1000, "iteration": 1, "fraction": 0.5, "score": 4.0, "finished": True,
    }  # fmt: skip


def test_file_progress_keeps_the_latest_score_between_evaluations(tmp_path):
    path = tmp_path / "progress.json"
    sink = FileProgress(path, every=0)
    sink.start(10, "steps", "ppo")
    sink.advance(1, 0.1, {"eval/score": 3.0})
    sink.advance(2, 0.2, {"loss/policy": 1.0})
    state = json.loads(path.read_text())
    assert (state["iteration"], state["score"], state["finished"]) == (2, 3.0, False)
    assert list(tmp_path.iterdir()) == [path]  # no half-written file stays behind


def test_rich_progress_writes_lines_where_there_is_no_terminal():
    out = io.StringIO()
    sink = RichProgress(Console(file=out, width=100))
    sink.start(1000, "steps", "ppo on hopper")
    sink.advance(1, 0.25, {"eval/score": 12.5})
    sink.advance(2, 0.5, {"loss/policy": 1.0})
    sink.finish({})
    assert out.getvalue().splitlines() == ["ppo on hopper: 1,000 steps", "ppo on hopper:  25%  score 12.5"]


def test_rich_progress_shows_title_fraction_and_score_on_a_terminal():
    out = io.StringIO()
    sink = RichProgress(Console(file=out, width=100, force_terminal=True))
    sink.start(1000, "steps", "ppo on hopper")
    sink.advance(1, 0.25, {"eval/score": 12.5})
    sink.close()
    shown = out.getvalue()
    assert "ppo on hopper" in shown
    assert "25%" in shown
    assert "score 12.5" in shown
    sink.close()  # a second time is allowed


def test_failing_reward_functions_are_shown_until_they_stop_failing():
    out = io.StringIO()
    sink = RichProgress(Console(file=out, width=100))
    sink.start(1000, "tokens", "grpo")
    sink.advance(1, 0.1, {"train/judge_failed": 0.025, "train/judge": 0.5, "train/close_failed": 0.0})
    sink.advance(1, 0.1, {"eval/score": 0.5, "eval/judge_failed": 0.5})
    sink.advance(2, 0.2, {"train/judge_failed": 0.0})
    sink.advance(2, 0.2, {"eval/score": 0.75})
    expected = ["grpo:  10%  score 0.500  judge failed for 2.5%", "grpo:  20%  score 0.750"]
    assert out.getvalue().splitlines()[1:] == expected


def test_failing_reward_functions_are_shown_beside_the_bar():
    out = io.StringIO()
    sink = RichProgress(Console(file=out, width=120, force_terminal=True))
    sink.start(1000, "tokens", "grpo")
    sink.advance(1, 0.1, {"eval/score": 0.5})
    sink.advance(1, 0.1, {"train/judge_failed": 0.025})
    sink.close()
    assert "score 0.500  judge failed for 2.5%" in out.getvalue()


def test_silent_progress_shows_nothing(capsys):
    sink = SilentProgress()
    sink.start(1, "steps", "ppo")
    sink.advance(1, 1.0, {"eval/score": 1.0})
    sink.finish({})
    assert capsys.readouterr() == ("", "")

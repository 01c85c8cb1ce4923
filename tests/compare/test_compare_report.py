import json
import re

import pytest
from compare_fakes import METHOD, write_run

from unirl.cli import main
from unirl.compare.output import as_record, write_outputs
from unirl.compare.report import configurations, method_parts, render
from unirl.compare.results import Failure, Results, read_run
from unirl.compare.used_parts import used_parts
from unirl.compare.wording import best_row, duration, signed, summary_text
from unirl.trainer.progress import format_score


@pytest.fixture
def results(tmp_path):
    runs = []
    for method, end in (("ppo", 40.0), ("grpo", 30.0)):
        for task, domain in (("hopper", "control"), ("addition", "llm")):
            for seed in (0, 1):
                scores = (10.0, 20.0, end + seed)
                runs.append(read_run(write_run(tmp_path, method, task, domain, seed, scores=scores)))
    failure = Failure("dpo", "llm", "addition", 0, "RuntimeError: <boom> & more")
    return Results(tuple(runs), (failure,), ("dpo is for llm, not for control",), "unirl compare x")


def test_report_needs_no_network_and_no_other_file(results):
    page = render(results)
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", page)
    assert len(page) < 1_000_000


def test_report_shows_every_method_task_and_failure(results):
    page = render(results)
    for word in ("ppo", "grpo", "dpo", "hopper", "addition", "dpo is for llm, not for control", "1 run did not finish"):
        assert word in page


def test_report_escapes_what_runs_wrote(results):
    page = render(results, title="<script>alert(1)</script>")
    assert "<boom>" not in page
    assert "&lt;boom&gt; &amp; more" in page
    assert "<script>alert" not in page


def test_report_embeds_the_curves_as_json(results):
    (first, *_) = re.findall(r'data-hover="([^"]*)"', render(results))
    data = json.loads(first.replace("&#34;", '"'))
    # seeds 0 and 1 of ppo end at 40 and 41
    assert data["series"][0] | {"style": 0} == {
        "name": "ppo", "style": 0, "x": [0, 100, 200], "y": [10, 20, 40.5], "low": [10, 20, 40], "high": [10, 20, 41],
    }  # fmt: skip


def test_summary_says_how_many_runs_finished_and_who_ended_highest(results):
    text = summary_text(results)
    assert "8 of 9 runs reached their end" in text
    assert "On hopper, ppo has the highest mean end score: 40.5, from 10.0 before training." in text


def test_nobody_is_best_where_ends_are_equal(tmp_path):
    runs = tuple(read_run(write_run(tmp_path, method)) for method in ("ppo", "grpo"))
    assert best_row(Results(runs), "hopper") is None


def test_method_parts_are_shared_if_both_domains_use_the_same_class(results):
    parts = method_parts(results, "ppo")
    assert parts.domains == ("control", "llm")
    assert parts.shared == len(parts.rows) == 6  # source, advantage, objective, regularizer, its coefficient, reduce


def test_used_parts_name_class_file_and_settings():
    by_kind = {part.kind: part for part in used_parts(METHOD)}
    assert (by_kind["objective"].class_name, by_kind["objective"].file) == ("PPOClip", "unirl/objectives/clipped.py")
    assert by_kind["objective"].settings_texts == ("clip_low=0.2", "clip_high=0.28")
    assert by_kind["coefficient"].settings_texts == ("value=0.04",)
    assert by_kind["regularizer"].settings_texts == ("to=ref",)


def test_used_parts_contain_the_defaults_and_the_gradient_rule():
    parts = [
        (part.kind, part.name) for part in used_parts({"objective": "dpo", "update": {"gradient": "extragradient"}})
    ]
    assert parts == [
        ("source", "online"),
        ("objective", "dpo"),
        ("reduce", "token_mean"),
        ("gradient", "extragradient"),
    ]


def test_a_part_that_is_gone_is_listed_by_its_name():
    part = next(part for part in used_parts({"objective": "from_an_old_version"}) if part.kind == "objective")
    assert (part.name, part.class_name) == ("from_an_old_version", "")


def test_configurations_join_seeds_and_split_other_differences(tmp_path):
    runs = [read_run(write_run(tmp_path, seed=seed)) for seed in (0, 1)]
    other = read_run(write_run(tmp_path / "other", seed=2, config={"samples": 5}))
    titles = [configuration.title for configuration in configurations([*runs, other])]
    assert titles == ["ppo · control · hopper · seed 0, 1", "ppo · control · hopper · seed 2"]


def test_outputs_are_a_page_pictures_and_json_without_nan(results, tmp_path):
    write_outputs(results, tmp_path / "o")
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["curves.png", "curves_control.png", "curves_llm.png", "report.html", "results.json"]
    record = json.loads((tmp_path / "o" / "results.json").read_text(), parse_constant=pytest.fail)
    assert len(record["runs"]) == 8
    failed = next(row for row in record["summary"] if row["method"] == "dpo")
    assert failed["end"]["mean"] is None
    assert as_record(results)["command"] == "unirl compare x"


def test_a_report_of_runs_that_all_failed_can_be_written(tmp_path):
    results = Results((), (Failure("ppo", "control", "hopper", 0, "boom"),))
    write_outputs(results, tmp_path)
    assert "boom" in (tmp_path / "report.html").read_text()


def test_report_command_writes_into_the_folder(tmp_path, capsys):
    write_run(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()
    assert "hopper" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.24, "8.2 s"), (42.4, "42 s"), (200, "3 min 20 s"), (240, "4 min"), (7500, "2 h 5 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.875, "0.875"), (0.12, "0.120"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0"), (None, "-")]
)
def test_format_score_has_three_digits(value, text):
    assert format_score(value) == text


def test_signed():
    assert (signed(1.5), signed(-1.5), signed(float("nan"))) == ("+1.50", "−1.50", "-")

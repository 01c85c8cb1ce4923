import json
import re
from html.parser import HTMLParser

import pytest
from compare_fakes import METHOD, write_run

from unirl.cli import main
from unirl.compare import statistics
from unirl.compare.configurations import configurations, differences, method_parts, versions
from unirl.compare.output import write_outputs
from unirl.compare.report import render
from unirl.compare.results import Failure, Results, read_run
from unirl.compare.tables import make_tables
from unirl.compare.used_parts import used_parts
from unirl.compare.wording import duration, estimate_text, summary_text
from unirl.trainer.progress import format_score


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "REPETITIONS", 100)


@pytest.fixture
def results(tmp_path):
    runs = []
    for method, end in (("ppo", 40.0), ("grpo", 30.0)):
        for task, domain in (("hopper", "control"), ("addition", "llm")):
            for seed in (0, 1):
                scores = (10.0, 20.0, end + seed)
                folder = write_run(
                    tmp_path, method, task, domain, seed, scores=scores, normalised=tuple(s / 2 for s in scores)
                )
                runs.append(read_run(folder))
    failure = Failure("dpo", "llm", "addition", 0, "RuntimeError: <boom> & more\n(exit code 1)", "x/log.txt")
    return Results(tuple(runs), (failure,), ("dpo is for llm, not for control",), "unirl compare x")


def page_of(results, title=""):
    return render(results, make_tables(results), title)


class TableReader(HTMLParser):
    """Every table of a page as rows of cell texts."""

    def __init__(self):
        super().__init__()
        self.tables = []
        self._inside = False

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.tables[-1][-1][-1] += data


def tables_of(page):
    reader = TableReader()
    reader.feed(page)
    return [[[" ".join(cell.split()) for cell in row] for row in table] for table in reader.tables]


def test_report_needs_no_network_and_no_other_file(results):
    page = page_of(results)
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", page)
    assert len(page) < 1_000_000


def test_report_shows_every_method_task_and_failure(results):
    page = page_of(results)
    for word in ("ppo", "grpo", "dpo", "hopper", "addition", "dpo is for llm, not for control", "1 run without"):
        assert word in page
    assert "seed 0: RuntimeError: &lt;boom&gt; &amp; more</summary>" in page
    assert "All of it: x/log.txt" in page


def test_report_escapes_what_runs_wrote(results):
    page = page_of(results, title="<script>alert(1)</script>")
    assert "<boom>" not in page
    assert "<script>alert" not in page


def test_report_embeds_the_curves_as_json(results):
    found = [json.loads(text.replace("&#34;", '"')) for text in re.findall(r'data-hover="([^"]*)"', page_of(results))]
    # seeds 0 and 1 of ppo end at 40 and 41; resampling two runs gives each alone one time in four
    raw = {
        "name": "ppo",
        "style": 0,
        "x": [0, 100, 200],
        "y": [10, 20, 40.5],
        "low": [10, 20, 40],
        "high": [10, 20, 41],
    }
    assert raw in [series for chart in found for series in chart["series"]]


def test_report_of_one_seed_says_that_there_are_no_intervals(tmp_path):
    run = read_run(write_run(tmp_path, normalised=(1.0, 2.0, 3.0)))
    page = page_of(Results((run,)))
    assert "with 1 run per task there is none" in page
    assert "Probability of improvement" not in page  # one method
    assert '"low":[]' in page.replace("&#34;", '"')


def test_report_says_which_tasks_have_no_scale(tmp_path):
    scaled = [read_run(write_run(tmp_path, method, normalised=(1.0, 2.0, 3.0))) for method in ("ppo", "sac")]
    raw = [read_run(write_run(tmp_path, method, "chat", "llm")) for method in ("ppo", "sac")]
    assert "Without a scale, and therefore not in these numbers: chat." in page_of(Results((*scaled, *raw)))
    assert "No task of this comparison has a scale" in page_of(Results(tuple(raw)))


def test_summary_json_holds_the_numbers_of_the_tables_of_the_page(results, tmp_path):
    write_outputs(results, tmp_path / "o")
    summary = json.loads((tmp_path / "o" / "summary.json").read_text(), parse_constant=pytest.fail)
    scores, together, control, llm, *per_task = tables_of((tmp_path / "o" / "report.html").read_text())

    def shown(estimate):
        return f"{format_score(estimate['value'])} [{format_score(estimate['low'])}, {format_score(estimate['high'])}]"

    groups = {group["name"]: group for group in summary["groups"]}
    assert scores[0] == ["Method", "control", "llm", "all tasks"] == ["Method", *groups]
    for method, *cells in scores[1:3]:
        assert cells == [shown(group["scores"][method]) for group in groups.values()]
    assert scores[3] == ["dpo", "–", "–", "–"]
    for table, group in ((together, groups["all tasks"]), (control, groups["control"]), (llm, groups["llm"])):
        (_, first, second), (_, *upper), (_, *lower) = table
        p = group["improvement"][first][second]
        assert upper[1] == f"{p['value']:.2f}[{p['low']:.2f}, {p['high']:.2f}]"
        assert lower[0].startswith(f"{1 - p['value']:.2f}")
    for task, (ends, costs) in zip(summary["tasks"], zip(per_task[0::2], per_task[1::2], strict=False), strict=False):
        for row, end in zip(task["rows"], ends[1:], strict=True):
            if row["seeds"]:
                normalised = format_score(row["normalised"])
                assert end == [row["method"], format_score(row["start"]), shown(row["end"]), normalised, "2"]
            else:
                assert end == [row["method"], "no finished run", "01 failed"]
        for method, *_, half, most in costs[1:]:
            for cell, level in ((half, task["levels"][0]), (most, task["levels"][1])):
                samples, seconds = level["samples"][method], level["seconds"][method]
                reached = "not reached" if samples is None else f"{samples:.0f} {duration(seconds)}"
                assert cell == reached


def test_summary_json_has_every_run_and_null_for_what_does_not_exist(results, tmp_path):
    write_outputs(results, tmp_path / "o")
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["curves.png", "curves_control.png", "curves_llm.png", "report.html", "summary.json"]
    record = json.loads((tmp_path / "o" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert (len(record["runs"]), record["runs"][0]["normalised_end"]) == (8, 20.0)
    failed = next(row for task in record["tasks"] for row in task["rows"] if row["method"] == "dpo")
    assert (failed["end"]["value"], failed["failed"]) == (None, 1)
    assert (record["command"], record["failures"][0]["file"]) == ("unirl compare x", "x/log.txt")


def test_summary_says_how_many_runs_finished_and_who_ended_highest(results):
    text = summary_text(results, make_tables(results))
    assert "8 of 9 runs reached their end" in text
    assert "On hopper, ppo ends highest, at 40.5 [40.0, 41.0], from 10.0 before training." in text


def test_nobody_is_best_where_ends_are_equal_but_for_rounding(tmp_path):
    ends = {"ppo": 0.805, "grpo": 0.80500001}
    runs = tuple(read_run(write_run(tmp_path, method, scores=(0.5, 0.6, end))) for method, end in ends.items())
    assert make_tables(Results(runs)).tasks[0].best is None


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


def test_differences_are_the_settings_in_which_methods_differ(tmp_path):
    own = {
        "name": "sac",
        "objective": {"name": "ppo_clip", "clip_low": 0.1, "clip_high": 0.28},
        "paper": {"year": 2018},
    }
    runs = (
        read_run(write_run(tmp_path, "ppo", config={"samples": 5})),
        read_run(write_run(tmp_path, "sac", config={"samples": 5, "method": {**METHOD, **own}})),
    )
    (found,) = differences(Results(runs))
    assert (found.task, found.methods) == ("hopper", ("ppo", "sac"))
    assert found.rows == {"method.objective.clip_low": ("0.2", "0.1")}


def test_differing_versions_are_all_listed(tmp_path):
    first, second = (read_run(write_run(tmp_path, seed=seed)) for seed in (0, 1))
    second.result["versions"]["torch"] = "2.14"
    assert versions([first, second]) == {"torch": "2.13, 2.14"}


def test_a_report_of_runs_that_all_failed_can_be_written(tmp_path):
    results = Results((), (Failure("ppo", "control", "hopper", 0, "boom"),))
    write_outputs(results, tmp_path)
    assert "boom" in (tmp_path / "report.html").read_text()


def test_report_command_writes_into_the_folder(tmp_path, capsys):
    write_run(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()
    assert "hopper" in capsys.readouterr().out


def test_report_command_takes_runs_still_going_and_writes_the_page_alone(tmp_path, capsys):
    folder = write_run(tmp_path / "runs", finished=False)
    assert main(["report", str(folder), "--out", str(tmp_path / "mine" / "a.html")]) == 0
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a.html"]
    page = (tmp_path / "mine" / "a.html").read_text()
    assert "no result yet: still running, or stopped" in page
    assert "0 of 1 runs reached their end." in page
    assert "Cost of a run" not in page
    assert "1 unfinished" in capsys.readouterr().out


def test_report_command_says_in_one_line_that_a_folder_holds_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


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


def test_estimate_text_shows_the_interval_where_there_is_one(results):
    row, other = make_tables(results).tasks[0].rows[0], make_tables(Results(results.runs[:1])).tasks[0].rows[0]
    assert (estimate_text(row.end), estimate_text(other.end)) == ("40.5 [40.0, 41.0]", "40.0")


def test_methods_are_ranked_by_their_normalised_score(tmp_path):
    runs = []
    for method, end in (("low", 20.0), ("high", 60.0), ("middle", 40.0)):
        runs.append(read_run(write_run(tmp_path, method, scores=(10.0, 20.0, end), normalised=(1.0, 2.0, end))))
    scores, improvement, *_ = tables_of(page_of(Results(tuple(runs))))
    assert [row[0] for row in scores[1:4]] == ["high", "middle", "low"]
    assert improvement[0] == ["", "high", "middle", "low"]

import json
import sys
from importlib.util import find_spec

import pytest

from unirl import cli
from unirl.commands import doctor, machine, selftest
from unirl.commands.extras import Package
from unirl.commands.selftest import SelfTest, run_self_test
from unirl.config import choices
from unirl.errors import UserError
from unirl.processors import allowed_processors

NEEDS = {"control": "gymnasium", "llm": "transformers"}


def told(found, *words):
    return all(word in found for word in words)


def test_doctor_names_devices_processors_and_what_to_install(capsys):
    assert cli.main(["doctor", "--json", "--no-self-test"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "cpu" in found["devices"][0] and found["torch_threads"] >= 1 and found["self_tests"] == {}
    assert found["extras"]["core"]["complete"]
    assert set(found["free_disk_gb"]) == {"out", "UNIRL_HOME", "D4RL_DATASET_DIR"}
    for extra in found["extras"].values():
        assert extra["for"] and extra["complete"] == (extra["install"] is None)
    assert cli.main(["doctor", "--no-self-test"]) == 0
    assert told(capsys.readouterr().out, "torch", "devices     cpu", "GiB available", "bfloat16")


def test_a_domain_without_its_packages_is_not_tested_and_the_command_that_installs_them_is_named(monkeypatch, capsys):
    core, llm = Package("torch", ">=2", "2.6", True), Package("transformers", ">=5", None, False)
    monkeypatch.setattr(doctor, "extras", lambda: {"core": [core], "llm": [llm]})
    monkeypatch.setattr(doctor, "tested_domains", lambda: ["llm"])
    assert cli.main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  llm"))
    assert told(line, "not installed: pip install", "[llm]'")


def test_a_self_test_that_fails_is_named_with_what_to_do_and_exit_code_1(monkeypatch, capsys):
    failed = SelfTest("control", 1.5, "ImportError: libEGL.so", "unirl train task=inverted_pendulum --debug")
    monkeypatch.setattr(doctor, "tested_domains", lambda: ["control"])
    monkeypatch.setattr(doctor, "run_self_test", lambda domain: failed)
    assert cli.main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert told(shown, "control  failed  1.5 s  ImportError: libEGL.so", failed.command, "pip check")
    assert cli.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["self_tests"]["control"]["problem"] == failed.problem


def test_a_missing_core_package_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "extras", lambda: {"core": [Package("torch", ">=2", "1.0", False)]})
    assert cli.main(["doctor", "--no-self-test"]) == 1
    assert told(capsys.readouterr().out, "does not fit", "pip install", "for everything")


def test_every_domain_has_a_self_test():
    assert selftest.tested_domains() == choices("domain")


@pytest.mark.parametrize("domain", selftest.tested_domains())
def test_the_self_test_of_a_domain_passes(domain):
    if find_spec(NEEDS[domain]) is None:
        pytest.skip(f"{domain} is not installed")
    assert run_self_test(domain).problem is None


def test_a_resumed_training_that_ends_differently_is_noticed(tmp_path, monkeypatch):
    def write(folder, weights):
        for step in (2, 4):
            (folder / "checkpoints" / f"step_{step}").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoints" / f"step_{step}" / "tensors.safetensors").write_bytes(weights)
        (folder / "result.json").write_text("{}")
        return {"score_start": 0.0, "score_end": 1.0}

    monkeypatch.setattr(selftest, "overrides", lambda domain: [])
    monkeypatch.setattr(selftest, "compose", lambda overrides: tmp_path / "whole")
    monkeypatch.setattr(selftest, "train", lambda folder: write(folder, b"a"))
    monkeypatch.setattr(selftest, "resume", lambda folder: write(folder, b"b"))
    with pytest.raises(UserError, match="does not end in the same weights"):
        selftest.train_and_resume("any", tmp_path)


@pytest.mark.parametrize(
    ("code", "limit", "problem"),
    [
        ("pass", 60.0, None),
        ("raise ImportError('libGL.so')", 60.0, "ImportError: libGL.so"),
        ("import os; os.abort()", 60.0, "the process ended with code -6"),
        ("import time; time.sleep(60)", 0.5, "not finished after 0.5 s"),
    ],
)
def test_whatever_ends_the_process_of_a_self_test_is_one_line(code, limit, problem, tmp_path):
    assert selftest._problem([sys.executable, "-c", code], str(tmp_path), limit) == problem


def test_a_containers_share_of_the_processors_is_quota_over_period(tmp_path):
    assert allowed_processors(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert allowed_processors(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert allowed_processors(tmp_path) == 2.5


def test_a_containers_memory_limit_is_shown_where_it_is_below_what_the_machine_has(tmp_path):
    assert "limit" not in machine.memory(tmp_path)
    (tmp_path / "memory.max").write_text(f"{2**28}\n")  # a quarter of a GiB, rounded to tenths
    assert machine.memory(tmp_path)["limit"] == 0.2
    (tmp_path / "memory.max").write_text("max\n")
    assert "limit" not in machine.memory(tmp_path)


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path):
    assert machine.free_disk(tmp_path / "not" / "yet") == pytest.approx(machine.free_disk(tmp_path), abs=0.2)

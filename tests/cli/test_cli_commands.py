import json
import sys
import types
import warnings
from importlib.metadata import EntryPoint

import pytest

from unirl import cli
from unirl.commands import train as train_command
from unirl.commands.announced import summary_of
from unirl.commands.methods import record as method_record
from unirl.commands.parts import hyper_parameters
from unirl.config import choices
from unirl.errors import RunWarning, UserError
from unirl.objectives.clipped import PPOClip


def stderr_of(capsys, *arguments):
    assert cli.main(arguments) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("unirl: ")
    assert found.err.count("\n") == 1
    return found.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian' (did you mean train?)"),
        (["method=ppo"], "did you mean `unirl train method=ppo`?"),
        (["--verison"], "did you mean --version?"),
        (["train", "--mutlirun"], "unknown option '--mutlirun' (did you mean --multirun?)"),
        (["train", "ppo"], "did you mean method=ppo?"),
        (["train", "method=pppo"], "unknown method 'pppo' (did you mean ppo"),
        (["train", "seed=1,2"], "--multirun"),
        (["eval"], "the following arguments are required: RUN  see"),
        (["eval", "nowhere", "--episodes", "few"], "invalid int value: 'few'"),
        (["eval", "nowhere", "--episodes", "0"], "at least 1"),
        (["resume", "nowhere"], "nowhere is not a run folder"),
        (["report", "nowhere"], "nowhere is not a folder"),
        (["parts", "objectives"], "did you mean objective"),
        (["methods", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert message in stderr_of(capsys, *arguments)


def test_debug_shows_the_traceback():
    with pytest.raises(UserError):
        cli.main(["train", "method=pppo", "--debug"])


def test_options_may_stand_between_overrides(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(train_command, "compose", lambda overrides: seen.append(tuple(overrides)) or {"out": "o"})
    monkeypatch.setattr(train_command, "train", lambda config, progress: {"score_end": 1})
    assert cli.main(["train", "method=ppo", "--json", "seed=3"]) == 0
    assert seen == [("method=ppo", "seed=3")]
    assert json.loads(capsys.readouterr().out) == {"score_end": 1}


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(config, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "compose", lambda overrides: {"out": str(tmp_path)})
    monkeypatch.setattr(train_command, "train", interrupted)
    assert cli.main(["train"]) == 130
    assert f"no checkpoint yet; start again with: unirl resume {tmp_path}" in capsys.readouterr().err
    (tmp_path / "checkpoints" / "step_000001").mkdir(parents=True)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == f"unirl: interrupted, saved; continue with: unirl resume {tmp_path}\n"


def test_multirun_is_the_cross_product_with_a_folder_each():
    assert train_command.combinations(["method=ppo,grpo", "task=hopper", "seed=1,2", "out=o"]) == [
        (f"method={method}", "task=hopper", f"seed={seed}", f"out='o/method={method},seed={seed}'")
        for method in ("ppo", "grpo")
        for seed in (1, 2)
    ]


def test_multirun_reads_ranges_and_leaves_lists_alone():
    found = train_command.combinations(["seed=range(0,2)", "a=[1,2]"])
    assert found == [
        ("seed=0", "a=[1,2]", "out='out/multirun/seed=0'"),
        ("seed=1", "a=[1,2]", "out='out/multirun/seed=1'"),
    ]


def test_a_package_can_announce_a_command(monkeypatch):
    module = types.ModuleType("announced_command")
    module.command = lambda arguments: len(arguments)
    monkeypatch.setitem(sys.modules, "announced_command", module)
    entry = EntryPoint("collect", "announced_command:command", "unirl.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])
    assert cli.main(["collect", "a=1", "b=2"]) == 2
    assert "collect" in cli.overview()


@pytest.mark.parametrize(
    ("module", "extra"), [("gymnasium", "control"), ("transformers.models", "llm"), ("h5py", "control")]
)
def test_a_missing_package_names_the_extra_to_install(monkeypatch, capsys, module, extra):
    def missing(arguments):
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(cli, "dispatch", missing)
    error = stderr_of(capsys, "train")
    assert error.startswith(f"unirl: the package '{module}' is not installed: pip install")
    assert error.endswith(f"[{extra}]'\n")


def test_a_file_that_cannot_be_read_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "dispatch", lambda arguments: (tmp_path / "gone").read_text())
    assert "gone: No such file or directory" in stderr_of(capsys, "train")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_with_examples(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    assert f"unirl {name}" in capsys.readouterr().out.partition("examples:")[2]


def test_methods_lists_every_configuration(capsys):
    assert cli.main(["methods", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == choices("method")


def test_methods_shows_parts_and_paper(monkeypatch, capsys):
    monkeypatch.setattr("unirl.commands.methods.choices", lambda group: ["grpo"])
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert "advantage group, objective ppo_clip" in shown
    assert "2024" in shown


def test_tasks_lists_every_configuration(capsys):
    assert cli.main(["tasks", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(found) == choices("task")
    assert found["hopper"]["environment"] == "Hopper-v5"
    assert found["hopper"]["summary"] == "One-legged hopping"
    assert (found["addition"]["domain"], found["addition"]["environment"]) == ("llm", None)


def test_tasks_shows_domain_and_environment(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["tasks"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("walker2d "))
    assert line.split()[:3] == ["walker2d", "control", "Walker2d-v5"]


def test_the_overview_says_what_an_announced_command_does_without_importing_it():
    entry = EntryPoint("collect", "unirl.control.data.command:command", "unirl.commands")
    assert summary_of(entry) == "make a dataset with any policy"
    assert summary_of(EntryPoint("own", "no_such_package.command:run", "unirl.commands")) == "(from no_such_package)"


def test_a_warning_of_our_own_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(cli, "dispatch", lambda arguments: warnings.warn(RunWarning("a word"), stacklevel=1) or 0)
    assert cli.main(["eval", "run"]) == 0
    assert capsys.readouterr().err == "unirl: a word\n"


def test_a_methods_record_names_its_parts():
    entry = method_record("grpo")
    assert entry["parts"]["advantage"] == ["group"]
    assert entry["parts"]["objective"] == ["ppo_clip"]
    assert entry["year"] == 2024
    assert entry["config"].endswith("configs/method/grpo.yaml")


def test_parts_shows_hyper_parameters_with_defaults(capsys):
    assert hyper_parameters(PPOClip) == {"clip_low": "0.2", "clip_high": "0.2", "dual_clip": "None"}
    assert cli.main(["parts", "objective", "--json"]) == 0
    entry = next(e for e in json.loads(capsys.readouterr().out) if e["name"] == "ppo_clip")
    assert entry["file"] == "unirl/objectives/clipped.py"
    assert entry["summary"].startswith("Pessimistic clipped surrogate")

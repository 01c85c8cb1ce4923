from pathlib import Path

import pytest

from unirl.compare import plan as plans
from unirl.errors import UserError
from unirl.processors import usable_cores

DOMAIN_OF = {"hopper": "control", "addition": "llm", "d4rl/hopper": "control", "d4rl-hopper": "control"}
ONLY = {"dpo": ["llm"], "sac": ["control"]}


@pytest.fixture(autouse=True)
def configurations(monkeypatch):
    """Two domains, three tasks, four methods, without files."""

    def group_config(group, name):
        if group == "task":
            return {"name": name, "domain": DOMAIN_OF[name]}
        return {"name": name, "default_task": {"control": "hopper", "llm": "addition"}[name]}

    def compose(overrides):
        chosen = dict(text.split("=", 1) for text in overrides)
        counts = {"samples": int(chosen.get("samples", 1)), "evaluations": 1, "evaluation_episodes": 1}
        method = {"name": chosen["method"], "objective": chosen.get("method.objective", "policy_gradient")}
        groups = {"method": method, "domain": {"name": chosen["domain"]}, "task": {"name": chosen["task"]}}
        return {**groups, **counts, "checkpoints": 1, "logs": 1}

    monkeypatch.setattr(plans, "group_config", group_config)
    monkeypatch.setattr(plans, "compose", compose)
    monkeypatch.setattr(plans, "method_config", lambda name: {"domains": ONLY.get(name)})


def test_cells_are_the_product_of_methods_default_tasks_and_seeds():
    made = plans.make_plan(["method=[ppo,grpo]", "domain=[control,llm]", "seeds=2", "out=o", "jobs=3"])
    assert [(c.method, c.domain, c.task, c.seed) for c in made.cells] == [
        (method, domain, task, seed)
        for method in ("ppo", "grpo")
        for domain, task in (("control", "hopper"), ("llm", "addition"))
        for seed in (0, 1)
    ]
    assert made.cells[0].folder == Path("o/ppo/hopper/seed_0")
    assert made.jobs == 3


def test_a_cell_is_what_unirl_train_is_given():
    (cell,) = plans.make_plan(["method=ppo", "task=hopper", "seeds=[7]", "out=o", "method.update.lr=1e-4"]).cells
    assert cell.overrides == (
        "method=ppo", "domain=control", "task=hopper", "method.update.lr=1e-4", "seed=7", "out='o/ppo/hopper/seed_7'",
    )  # fmt: skip


def test_a_task_in_a_folder_makes_no_deeper_run_folder():
    (cell,) = plans.make_plan(["method=ppo", "task=d4rl/hopper", "seeds=1", "out=o"]).cells
    assert cell.folder == Path("o/ppo/d4rl-hopper/seed_0")


def test_combinations_that_a_method_does_not_declare_are_skipped_with_the_reason():
    made = plans.make_plan(["method=[sac,dpo]", "domain=[control,llm]", "seeds=1"])
    assert [(cell.method, cell.domain) for cell in made.cells] == [("sac", "control"), ("dpo", "llm")]
    assert made.skipped == ("sac is for control, not for llm", "dpo is for llm, not for control")


def test_nothing_left_to_compare_is_an_error():
    with pytest.raises(UserError, match="nothing to compare: sac is for control, not for llm"):
        plans.make_plan(["method=sac", "domain=llm"])


def test_rules_of_cells_apply_where_their_conditions_hold(monkeypatch):
    rules = [{"set": ["logs=5"]}, {"domain": "llm", "method": ["ppo"], "set": ["samples=7"]}]
    monkeypatch.setattr(plans, "_preset", lambda name: {"cells": rules, "method": ["ppo", "grpo"], "seeds": 1})
    made = plans.make_plan(["preset=mine"])
    extra = {(c.method, c.domain): [t for t in c.overrides if t in ("logs=5", "samples=7")] for c in made.cells}
    assert extra == {
        ("ppo", "control"): ["logs=5"],
        ("ppo", "llm"): ["logs=5", "samples=7"],
        ("grpo", "control"): ["logs=5"],
        ("grpo", "llm"): ["logs=5"],
    }


def test_typed_arguments_win_over_the_preset():
    made = plans.make_plan(["preset=demo", "method=[ppo]", "domain=llm", "seeds=[4]"])
    assert [(cell.method, cell.task, cell.seed) for cell in made.cells] == [("ppo", "addition", 4)]


def test_comma_lists_mean_the_same_as_lists():
    assert (
        plans.make_plan(["method=ppo,grpo", "seeds=1"]).cells == plans.make_plan(["method=[ppo,grpo]", "seeds=1"]).cells
    )


def test_a_misspelt_part_is_found_before_anything_is_trained():
    with pytest.raises(UserError, match="unknown objective 'policy_gradeint'"):
        plans.make_plan(["method=ppo", "domain=control", "method.objective=policy_gradeint"])


def test_cells_train_on_as_many_cores_as_may_be_used(monkeypatch):
    monkeypatch.setattr(plans, "usable_cores", lambda: 7)
    assert plans.make_plan(["method=ppo"]).jobs == 7


@pytest.mark.parametrize(
    ("files", "own", "cores"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1),  # one and a half processors
        ({"cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b", 3),  # a parent's quota holds too
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/", 16),
        ({"cpu.max": "1000 100000"}, "0::/", 1),
        ({}, "", 16),
    ],
)
def test_usable_cores_heed_control_groups(tmp_path, monkeypatch, files, own, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(16))
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    assert usable_cores(tmp_path / "groups", tmp_path / "own") == cores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=3"], "seeds=3"),
        (["methods=[ppo]"], "did you mean method"),
        (["preset=dem"], "did you mean demo"),
        (["ppo"], "'ppo' is not key=value"),
        (["seeds=many"], "neither a number of seeds"),
        (["seeds=0"], "neither a number of seeds"),
        (["samples=-600"], "samples is -600"),
        (["method=[]"], r"nothing to compare: method=\[\] names none"),
        (["domain=[]"], r"nothing to compare: domain=\[\] names none"),
        (["jobs=0"], "at least 1"),
        (["method=[ppo"], "cannot read"),
        (["cells=[{when: ppo, set: ['a=1']}]"], "unknown condition"),
        (["method=ppo", "task=[d4rl/hopper,d4rl-hopper]"], "would share a folder"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        plans.make_plan(arguments)
    assert "\n" not in str(caught.value)

import pytest
import yaml

from unirl.config import choices, compose, method_config
from unirl.errors import UserError
from unirl.run import check


def test_the_task_chooses_its_domain_and_the_domain_its_task_and_model():
    by_task = compose(["method=grpo", "task=addition"])
    assert (by_task["domain"]["name"], by_task["model"]["name"]) == ("llm", "tiny")
    by_domain = compose(["method=grpo", "domain=llm"])
    assert by_domain["task"]["name"] == "addition"
    by_method = compose(["method=sac"])
    assert (by_method["domain"]["name"], by_method["task"]["name"]) == ("control", "inverted_pendulum")


def test_layers_from_the_weakest_to_the_strongest():
    # the domain's default lr for online sources is 1e-4 in language; grpo says 3e-3 for control; the command line wins
    assert compose(["method=grpo", "domain=llm"])["method"]["update"]["lr"] == 1.0e-4
    assert compose(["method=grpo", "domain=control"])["method"]["update"]["lr"] == 3.0e-3
    assert compose(["method=grpo", "domain=control", "method.update.lr=0.5"])["method"]["update"]["lr"] == 0.5


def test_a_hyper_parameter_that_the_file_leaves_out_can_be_set():
    assert compose(["method=ppo", "method.objective.dual_clip=3.0"])["method"]["objective"]["dual_clip"] == 3.0


def test_an_element_of_a_list_can_be_set():
    config = compose(["method=grpo", "domain=llm", "method.regularizers.0.coef=0.5"])
    assert config["method"]["regularizers"][0] == {"name": "kl", "to": "ref", "estimator": "k3", "coef": 0.5}


def test_the_users_budget_replaces_the_tasks_whichever_unit_that_was_in():
    default = compose(["method=ppo", "task=inverted_pendulum"])
    assert (default["samples"], default["iterations"]) == (40000, None)
    own = compose(["method=ppo", "task=inverted_pendulum", "iterations=3"])
    assert (own["samples"], own["iterations"]) == (None, 3)


def test_a_group_may_be_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**method_config("ppo"), "name": "mine", "domains": ["control"]}))
    config = compose([f"method={path}"])
    assert config["method"]["name"] == "mine"
    assert config["out"] == "out/mine/inverted_pendulum/seed_0"


@pytest.mark.parametrize(("content", "message"), [("[1, 2]", "holds no mapping"), ("a: [", "not valid YAML")])
def test_a_broken_file_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        compose([f"method={path}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_composes_in_every_domain_that_it_declares(method):
    for domain in method_config(method)["domains"]:
        config = compose([f"method={method}", f"domain={domain}"])
        assert config["samples"] or config["iterations"]
        assert "per_domain" not in config["method"]


@pytest.mark.parametrize("task", choices("task"))
def test_every_task_composes(task):
    assert compose([f"task={task}"])["task"]["name"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["samples=-5"], "samples is -5; it must be a whole number of at least 1"),
        (["iterations=0"], "iterations is 0; it must be a whole number of at least 1"),
        (["samples=1.5"], "samples is 1.5; it must be a whole number"),
        (["threads=0"], "threads is 0; it must be a whole number of at least 1"),
        (["logs=0"], "logs is 0; it must be a whole number of at least 1"),
        (["seed=-1"], "seed is -1; it must be a whole number of at least 0"),
        (["device=5"], "device is 5; give a device such as cpu"),
        (["init=5"], "init is 5; give a run folder"),
        (["plugins=mine"], r"plugins is 'mine'; give a list of modules: 'plugins=\[my_parts\]'"),
        (["method=[ppo,trpo]"], r"method=\[ppo,trpo\] names several; .* `unirl compare 'method=\[ppo,trpo\]'`"),
        (["method=ppo,trpo"], r"method=ppo,trpo names several; .* `unirl compare 'method=\[ppo,trpo\]'`"),
        (["model=mlp,mlp_small"], "model=mlp,mlp_small names several; .*`--multirun model=mlp,mlp_small`"),
        (["method=iql", "method.critic.9.heads=2"], "method.critic is a list without an entry '9'; it has method.cr"),
        (["method=iql", "method.critic.heads=2"], "method.critic is a list without an entry 'heads'"),
        (["task=foo"], "unknown task 'foo' .* see: unirl tasks"),
    ],
)
def test_what_a_run_cannot_be_is_one_line(given, message):
    with pytest.raises(UserError, match=message) as caught:
        compose(given)
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_written_as_floats():
    samples = compose(["method=ppo", "samples=1e3"])["samples"]
    assert (samples, type(samples)) == (1000, int)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method=ppo", "method.update=5"], "method.update is 5; give a mapping such as {name: adam, lr: 3e-4}"),
        (["method=ppo", "method.source=5"], "method.source is 5; give a mapping such as {name: online"),
        (["method=ppo", "method.update.epochs=0"], "method.update.epochs is 0"),
        (["method=ppo", "method.update.lr=-1"], "method.update.lr for 'value' is -1"),
        (["method=td3_bc", "method.critic=null"], "'value_gradient' needs an action-value critic: method.critic={name"),
        (
            ["method=iql", "method.critic={name: q}"],
            "advantage 'q_minus_v' needs a state-value critic: add {name: v} to method.critic",
        ),
    ],
)
def test_what_a_domain_need_not_be_made_for_is_checked_without_it(given, message):
    with pytest.raises(UserError, match=message):
        check(compose(given))


def test_the_update_may_be_the_name_of_an_optimizer():
    check(compose(["method=ppo", "method.update=sgd"]))

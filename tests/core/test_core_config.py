import pytest
import yaml

from unirl.config import choices, compose, method_config
from unirl.errors import UserError


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

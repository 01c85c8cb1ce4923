"""The language domain's configuration files."""

import inspect

import pytest

from unirl.config import compose, group_config
from unirl.llm import LanguageDomain
from unirl.llm.models import model_settings


@pytest.mark.parametrize("name", ["tiny", "hf"])
def test_the_model_files_are_read_without_complaint(name: str) -> None:
    model_settings(group_config("model", name))


def test_the_tiny_model_and_addition_are_the_defaults_of_the_language_domain() -> None:
    config = compose(["domain=llm", "method=grpo"])
    assert (config["task"]["name"], config["model"]["name"]) == ("addition", "tiny")
    assert config["method"]["source"]["rows"] % config["method"]["source"]["group_size"] == 0


def test_the_domain_files_values_are_the_constructors_defaults() -> None:
    defaults = {name: p.default for name, p in inspect.signature(LanguageDomain).parameters.items()}
    stated = {key: value for key, value in group_config("domain", "llm").items() if key in defaults}
    assert {"engine", "temperature", "top_k", "top_p", "min_p", "token_budget", "demonstrations"} <= set(stated)
    assert stated == {key: defaults[key] for key in stated}

import pytest
from both_budgets import BUDGETS, LEAST, METHODS, overrides

from unirl.config import compose
from unirl.method import Method
from unirl.run import train


@pytest.mark.parametrize(("method", "domain"), BUDGETS)
def test_one_file_trains_both_worlds(method, domain, tmp_path):
    result = train(compose(overrides(method, domain, 0, tmp_path / "run")))
    assert result["score_end"] - result["score_start"] > LEAST[domain], result


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("method", "domain"), BUDGETS)
def test_one_file_trains_both_worlds_with_every_seed(method, domain, seed, tmp_path):
    result = train(compose(overrides(method, domain, seed, tmp_path / "run")))
    assert result["score_end"] - result["score_start"] > LEAST[domain], result


@pytest.mark.parametrize("method", METHODS)
def test_both_runs_are_made_of_the_same_part_classes(method):
    from unirl.run import build

    classes = {}
    for domain in ("control", "llm"):
        trainer = build(compose([*overrides(method, domain, 0, "unused"), *CHEAP[domain]]), None)
        assert isinstance(trainer.method, Method)
        classes[domain] = [type(part) for part in (*trainer.method.parts, trainer.source, trainer.update)]
    assert classes["control"] == classes["llm"]


CHEAP = {
    "control": ["task.preferences.segments=8", "task.demonstrations.episodes=1"],
    "llm": ["task.preferences.prompts=8", "domain.demonstrations=8"],
}

import numpy as np
import pytest

from unirl.control.data.scores import REFERENCES, normalized_score, reference_scores


def test_random_and_expert_returns_are_0_and_100_percent():
    for task, (random, expert) in REFERENCES.items():
        name = f"{task}-medium-v2" if "maze2d" not in task else f"{task}-v1"
        assert normalized_score(name, random) == 0.0
        assert normalized_score(name, expert) == pytest.approx(100.0)


def test_hopper_score_by_hand():
    # (1294.8 + 20.272305) / (3234.3 + 20.272305) = 1315.072305 / 3254.572305 = 0.404069
    assert normalized_score("hopper-medium-v2", [1294.7, 1294.9]) == pytest.approx(40.4069, abs=1e-4)


@pytest.mark.parametrize(
    "name",
    ["hopper", "Hopper-v5", "hopper-medium-replay-v2", "d4rl/hopper-expert-v2", "mujoco/hopper/medium-v0"],
)
def test_every_way_to_name_hopper_finds_its_reference(name):
    assert reference_scores(name) == (-20.272305, 3234.3)


def test_names_that_only_look_alike_are_told_apart():
    assert reference_scores("maze2d-umaze-v1") == (23.85, 161.86)
    assert reference_scores("maze2d-umaze-dense-v1") == (68.537689, 193.66285642381482)
    assert reference_scores("antmaze-umaze-v2") == (0.0, 1.0)
    assert reference_scores("Ant-v5") == (-325.6, 3879.7)
    assert reference_scores("AdroitHandPen-v1") == reference_scores("pen-human-v1")
    assert reference_scores("walker2d-expert-v2") == reference_scores("Walker2d-v5")


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "bullet-hopper-medium-v0", "pendulum", ""])
def test_a_task_without_reference_has_no_normalised_score(name):
    assert normalized_score(name, np.zeros(3)) is None

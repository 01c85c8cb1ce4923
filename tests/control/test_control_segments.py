"""Segments, pairs of them, and labels."""

import pytest
import torch
from control_worlds import CLOCK, SMALL
from helpers import rows

from unirl.control import ControlDomain
from unirl.control.segments import PreferenceOptions, cut, draw_pairs, segment_pairs
from unirl.errors import UserError


def clock(**task) -> ControlDomain:
    return ControlDomain({**CLOCK, **task}, SMALL)


def test_episodes_are_cut_and_empty_pieces_dropped():
    # lengths 3 and 2 cut by 2: pieces [1, 2], [3, -] and [4, 5], and none from the padding
    batch = rows(
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        reward=[[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]],
        inputs={"observation": [[[1.0], [2.0], [3.0]], [[4.0], [5.0], [0.0]]]},
        group=[0, 0],
    )
    pieces = cut(batch, 2)
    assert pieces.mask.tolist() == [[True, True], [True, False], [True, True]]
    assert pieces.inputs["observation"].squeeze(-1).tolist() == [[1, 2], [3, 0], [4, 5]]
    assert pieces.score.tolist() == [3, 3, 9]
    assert pieces.group.tolist() == [0, 1, 0]  # equal where episodes of a group start at the same decision


def test_pairs_stay_within_groups_and_compare_distinct_rows():
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    pairs = draw_pairs(group, 300, torch.Generator().manual_seed(0))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    first, second = group[pairs].unbind(-1)
    assert ((first == second) | (first == 2)).all()
    assert (first == 2).any()  # a row without peers is compared with any other
    assert torch.equal(pairs, draw_pairs(group, 300, torch.Generator().manual_seed(0)))


def test_labels_prefer_the_larger_return():
    # whole lives pay 6; cut by 2 they pay 1 + 2 and 3
    domain = clock()
    options = PreferenceOptions(segments=8, length=3, pairs=20)
    batch, pairs, labels = segment_pairs(domain, options)
    assert len(batch) == 8
    assert batch.score.tolist() == [6.0] * 8
    assert labels.tolist() == [0.5] * 20
    batch, pairs, labels = segment_pairs(
        clock(env_kwargs={"life": 99}), PreferenceOptions(segments=8, length=4, pairs=20)
    )
    assert set(batch.score.tolist()) == {10.0, 5.0}  # 1 + 2 + 3 + 4 and 5
    expected = (batch.score[pairs[:, 0]] - batch.score[pairs[:, 1]]).sign() / 2 + 0.5
    assert torch.equal(labels, expected)


def test_preferences_make_a_dataset_of_pairs_with_plain_observations():
    domain = clock(preferences={"segments": 8, "length": 3, "from": "rollout", "annotator": {"name": "by_return"}})
    data = domain.preferences()
    batch = data.sample(4)
    assert batch.pairs.shape == (4, 2)
    assert set(batch.inputs["observation"][..., 0].unique().tolist()) == {0.0, 1.0, 2.0}
    again = clock(preferences={"segments": 8, "length": 3}).preferences().sample(4)
    assert torch.equal(again.inputs["action"], batch.inputs["action"])


def test_preferences_from_demonstrations():
    task = {"env": "InvertedPendulum-v5", "expert": "inverted_pendulum", "demonstrations": {"episodes": 1}}
    domain = ControlDomain({**task, "preferences": {"segments": 4, "length": 10, "from": "data"}}, SMALL)
    batch = domain.preferences().sample(3)
    assert batch.mask.shape[1] == 10
    assert (batch.score == 10).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 5}, r"unknown key of task.preferences 'segment' \(did you mean segments"),
        ({"from": "rolout"}, r"unknown task.preferences.from 'rolout' \(did you mean rollout"),
        ({"segments": 1}, "at least 2 segments"),
        ({"segments": "many"}, "task.preferences.segments is 'many'; it must be a whole number"),
    ],
)
def test_wrong_options_say_what_would_be_right(options, message):
    with pytest.raises(UserError, match=message):
        PreferenceOptions.of(options)

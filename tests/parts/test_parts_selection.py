"""Selection: weights and pairs, by hand."""

import pytest
import torch
from hypothesis import given
from strategies import batches
from torch import tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.errors import UserError

SCORED = Batch(
    score=tensor([1.0, 0.0, 3.0, 3.0, 2.0]), group=tensor([0, 1, 0, 1, 0]), mask=torch.ones(5, 1, dtype=torch.bool)
)


def pairs_of(batch=SCORED, **options):
    made = make("selection", "pair_by_score", **options)(batch)
    return made.pairs.tolist(), made.pair_label


def test_valid_groups_drops_groups_of_equal_scores_without_touching_the_rest():
    batch = Batch(
        score=tensor([1.0, 1.0, 0.0, 1.0, 5.0]),
        group=tensor([3, 3, 1, 1, 2]),
        mask=torch.ones(5, 2, dtype=torch.bool),
        advantage=torch.ones(5, 2),
        weight=torch.full((5, 2), 0.5),
    )
    filled = make("selection", "valid_groups")(batch)
    assert filled.weight[:, 0].tolist() == [0.0, 0.0, 0.5, 0.5, 0.0]
    assert filled.advantage.eq(1).all()
    assert make("selection", "valid_groups", tolerance=1.0)(batch).weight.eq(0).all()


def test_row_filter_keeps_the_closed_interval():
    batch = SCORED.replace(rewards={"accuracy": tensor([0.0, 0.5, 1.0, float("nan"), 0.2])})

    def kept(**options):
        return make("selection", "row_filter", **options)(batch).weight[:, 0].tolist()

    assert kept(minimum=1.0, maximum=2.0) == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert kept(minimum=2.0) == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert kept(field="rewards.accuracy", maximum=0.5) == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert make("selection", "row_filter", field="rewards.accuracy").reads == ("rewards.accuracy",)


def test_row_filter_refuses_a_field_per_decision():
    with pytest.raises(UserError, match="one number per row"):
        make("selection", "row_filter", field="mask")(SCORED)


def test_of_source_keeps_one_source():
    batch = SCORED.replace(source=tensor([0, 1, 0, 2, 1]))
    assert make("selection", "of_source")(batch).weight[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert make("selection", "of_source", source=1)(batch).weight[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]


def test_pairing_by_hand():
    # group 0: rows 2 (3), 4 (2), 0 (1); group 1: rows 3 (3), 1 (0)
    assert pairs_of()[0] == [[2, 0], [3, 1]]
    assert pairs_of(pairing="adjacent")[0] == [[2, 4], [4, 0], [3, 1]]
    assert pairs_of(pairing="all")[0] == [[2, 4], [2, 0], [4, 0], [3, 1]]


def test_labels_are_hard_or_bradley_terry():
    # differences 2 and 3 at temperature 2: sigma(1) = .7310585786, sigma(1.5) = .8175744762
    assert pairs_of()[1].tolist() == [1.0, 1.0]
    soft = pairs_of(label="bradley_terry", temperature=2.0)[1]
    assert_close(soft, tensor([0.7310585786, 0.8175744762]))


def test_ties_make_no_pair():
    tied = SCORED.replace(score=torch.ones(5))
    for pairing in ("best_worst", "all", "adjacent"):
        pairs, label = pairs_of(tied, pairing=pairing)
        assert pairs == [] and len(label) == 0


@given(batches(min_rows=2))
def test_every_pair_is_of_one_group_and_the_first_is_better(batch):
    for pairing in ("best_worst", "all", "adjacent"):
        made = make("selection", "pair_by_score", pairing=pairing, label="bradley_terry")(batch)
        first, second = made.pairs.unbind(1)
        assert (batch.group[first] == batch.group[second]).all()
        assert (batch.score[first] > batch.score[second]).all() and (made.pair_label > 0.5).all()


@given(batches(min_rows=2))
def test_all_pairs_are_as_many_as_there_are(batch):
    made = make("selection", "pair_by_score", pairing="all")(batch)
    sizes = torch.bincount(batch.group)
    assert len(made.pairs) == int((sizes * (sizes - 1) // 2).sum())


def test_integer_scores_can_be_paired():
    pairs, label = pairs_of(SCORED.replace(score=tensor([1, 0, 3, 3, 2])))
    assert pairs == [[2, 0], [3, 1]] and label.dtype == torch.float32


def test_pairing_refuses_unknown_options():
    for options in ({"pairing": "best"}, {"label": "soft"}, {"temperature": 0.0}):
        with pytest.raises(UserError):
            make("selection", "pair_by_score", **options)

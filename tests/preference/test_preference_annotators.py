from math import log

import pytest
import torch
from helpers import rows
from torch.testing import assert_close

from unirl import make
from unirl.errors import UserError
from unirl.preference.pairs import against_opponent, answers, random_pairs, segment_pairs, tournament
from unirl.preference.readers import PairRecord


def scored(*scores):
    return rows(score=list(scores), mask=torch.ones(len(scores), 1, dtype=torch.bool))


def many(pairs):
    return torch.tensor(pairs)


def test_by_return_gives_hard_labels_and_one_half_for_a_tie():
    labels = make("annotator", "by_return")(scored(1.0, 3.0, 3.0), many([[0, 1], [1, 0], [1, 2]]))
    assert labels.tolist() == [0.0, 1.0, 0.5]


def test_by_return_with_a_temperature_is_bradley_terry():
    # (2 log 3 - 0) / 2 = log 3, sigmoid(log 3) = 3 / 4
    labels = make("annotator", "by_return", temperature=2.0)(scored(2 * log(3), 0.0), many([[0, 1], [1, 0]]))
    assert_close(labels, torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_by_return_refuses_a_negative_temperature():
    with pytest.raises(UserError, match="temperature is -1"):
        make("annotator", "by_return", temperature=-1.0)


def test_cyclic_is_rock_paper_scissors_by_default():
    # bins: 0.1 -> 0, 0.5 -> 1, 0.9 -> 2; P[0,1] = .9, P[1,2] = .8, P[2,0] = .8
    labels = make("annotator", "cyclic")(scored(0.1, 0.5, 0.9), many([[0, 1], [1, 2], [2, 0], [1, 0], [0, 0]]))
    assert_close(labels, torch.tensor([0.9, 0.8, 0.8, 0.1, 0.5], dtype=torch.float64))


def test_cyclic_counts_the_edges_that_the_feature_has_reached():
    taste = make("annotator", "cyclic", edges=[1.0], payoff=[[0.5, 0.2], [0.8, 0.5]])
    assert_close(taste(scored(1.0, 0.99), many([[0, 1]])), torch.tensor([0.8], dtype=torch.float64))


def test_cyclic_can_read_the_length_or_a_named_reward():
    batch = rows(mask=torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool), rewards={"x": [9.0, 0.0, 5.0]})
    by_length = make("annotator", "cyclic", feature="length", edges=[2, 3])
    assert_close(by_length(batch, many([[0, 1], [1, 2]])), torch.tensor([0.9, 0.8]))
    by_reward = make("annotator", "cyclic", feature="rewards.x", edges=[3, 6])
    assert_close(by_reward(batch, many([[1, 2], [2, 0]])), torch.tensor([0.9, 0.8], dtype=torch.float64))


@pytest.mark.parametrize(
    ("hyper", "says"),
    [
        ({"edges": [0.5]}, "1 edges need a payoff of 2 rows of 2"),
        ({"edges": [0.5, 0.5]}, "must increase"),
        ({"edges": [0.5], "payoff": [[0.5, 0.9], [0.9, 0.5]]}, r"payoff\[i\]\[j\] \+ payoff\[j\]\[i\] = 1"),
    ],
)
def test_cyclic_refuses_what_is_no_preference(hyper, says):
    with pytest.raises(UserError, match=says):
        make("annotator", "cyclic", **hyper)


def test_cyclic_refuses_an_unknown_feature():
    with pytest.raises(UserError, match="feature is 'height'; known: score, length"):
        make("annotator", "cyclic", feature="height")(scored(0.0, 1.0), many([[0, 1]]))


def test_noisy_without_sampling_mixes_the_probabilities():
    # 0.8 * 0.75 + 0.2 * 0.25 = 0.65
    noisy = make("annotator", "noisy", of={"name": "by_return", "temperature": 1.0}, flip=0.2, sample=False)
    assert_close(noisy(scored(log(3), 0.0), many([[0, 1]])), torch.tensor([0.65], dtype=torch.float64))


def test_noisy_flips_as_often_as_it_says():
    pairs = many([[0, 1]] * 20_000)
    labels = make("annotator", "noisy", flip=0.1, seed=3)(scored(1.0, 0.0), pairs)
    assert set(labels.tolist()) == {0.0, 1.0}
    assert abs(labels.mean().item() - 0.9) < 0.01  # standard error 0.002


def test_noisy_continues_its_draws_from_a_state():
    pairs, batch = many([[0, 1]] * 50), scored(1.0, 0.0)
    noisy = make("annotator", "noisy", flip=0.4)
    noisy(batch, pairs)
    state = noisy.state_dict()
    expected = noisy(batch, pairs)
    fresh = make("annotator", "noisy", flip=0.4)
    fresh.load_state_dict(state)
    assert torch.equal(fresh(batch, pairs), expected)


def test_tournament_pairs_every_two_rows_of_a_group():
    assert tournament(torch.tensor([7, 8, 7, 7])).tolist() == [[0, 2], [0, 3], [2, 3]]


def test_against_opponent_pairs_policy_rows_with_opponent_rows_of_the_group():
    group, source = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 0, 0])
    assert against_opponent(group, source).tolist() == [[0, 1], [3, 2], [4, 2]]


def test_random_pairs_never_compare_a_row_with_itself_or_across_groups():
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    pairs = random_pairs(group, 200, torch.Generator().manual_seed(0))
    assert len(pairs) == 400  # the group of one row gives none
    assert (pairs[:, 0] != pairs[:, 1]).all() and (group[pairs[:, 0]] == group[pairs[:, 1]]).all()
    assert {tuple(pair) for pair in pairs.tolist()} == {
        (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (3, 4), (4, 3)
    }  # fmt: skip


def test_segment_pairs_carry_the_annotators_labels():
    batch = scored(0.0, 1.0, 2.0)
    data = segment_pairs(batch, make("annotator", "by_return"), count=40, seed=1)
    assert len(data) == 40
    drawn = data.sample(40)
    first, second = drawn.score[drawn.pairs].unbind(-1)
    assert torch.equal(drawn.pair_label, (first > second).double())


def test_answers_puts_the_chosen_one_first():
    prompts, texts, pairs = answers([PairRecord("p", "good", "bad"), PairRecord("q", "yes", "no")])
    assert prompts == ["p", "p", "q", "q"]
    assert texts == ["good", "bad", "yes", "no"]
    assert pairs.tolist() == [[0, 1], [2, 3]]


def grouped():
    return rows(score=[1.0, 3.0, 2.0, 5.0], group=[0, 0, 1, 1], source=[0, 1, 1, 0], mask=torch.ones(4, 1).bool())


@pytest.mark.parametrize(
    ("pairing", "pairs", "labels"),
    [("tournament", [[0, 1], [2, 3]], [0.0, 0.0]), ("opponent", [[0, 1], [3, 2]], [0.0, 1.0])],
)
def test_annotate_fills_pairs_and_labels(pairing, pairs, labels):
    batch = make("reward", "annotate", annotator="by_return", pairing=pairing)(grouped())
    assert batch.pairs.tolist() == pairs
    assert batch.pair_label.tolist() == labels


def test_annotate_at_random_repeats_from_its_state():
    part = make("reward", "annotate", annotator={"name": "noisy", "flip": 0.3}, pairing="random", per_group=20)
    part(grouped())
    state, expected = part.state_dict(), None
    expected = part(grouped())
    fresh = make("reward", "annotate", annotator={"name": "noisy", "flip": 0.3}, pairing="random", per_group=20)
    fresh.load_state_dict(state)
    again = fresh(grouped())
    assert torch.equal(again.pairs, expected.pairs) and torch.equal(again.pair_label, expected.pair_label)


def test_annotate_says_what_is_missing_when_nothing_can_be_compared():
    alone = rows(score=[1.0, 2.0], group=[0, 1], source=[0, 0], mask=torch.ones(2, 1).bool())
    with pytest.raises(UserError, match="group_size of 2 or more"):
        make("reward", "annotate")(alone)
    with pytest.raises(UserError, match=r"needs source\.opponent"):
        make("reward", "annotate", pairing="opponent")(alone)


def test_annotate_declares_what_its_annotator_reads():
    assert make("reward", "annotate").reads == ("group", "score")
    nested = make("reward", "annotate", annotator={"name": "noisy", "of": {"name": "cyclic", "feature": "length"}})
    assert nested.reads == ("group", "mask")

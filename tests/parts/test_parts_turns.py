"""Turns: values at their first decision, advantages over them, losses that weigh them."""

import pytest
import torch
from helpers import rows
from hypothesis import given
from strategies import batches, exact, with_leaf
from torch import tensor
from torch.testing import assert_close

from unirl import make
from unirl.domain import DomainInfo
from unirl.method import Method
from unirl.reduce.masked import Units

# two turns of two and one decision, what the user says between them masked; then padding
SPOKEN = {
    "turn": [[0, 0, 0, 1, 9]],
    "mask": [[True, True, False, True, False]],
    "value": [[1.0, 50.0, 60.0, 2.0, 70.0]],
    "next_value": [[50.0, 60.0, 2.0, 8.0, 70.0]],
    "reward": [[0.0, 1.0, 90.0, 3.0, 90.0]],
    "terminated": [[False] * 5],
    "truncated": [[False] * 5],
}


def spoken(**changes):
    return rows(**{**SPOKEN, **changes})


def advantage(batch, **options):
    return make("advantage", "turn_gae", **options)(batch)


def test_units_by_hand():
    units = Units(tensor([[3, 3, 7, 3], [3, 5, 5, 5]]), tensor([[True, True, True, False], [False, True, True, True]]))
    assert units.sum(exact([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]]))[0, :3].tolist() == [3.0, 3.0, 4.0]
    assert units.size[1, 1:].tolist() == [3.0, 3.0, 3.0]
    assert units.first().tolist() == [[True, False, True, False], [False, True, False, False]]
    assert units.last().tolist() == [[False, True, True, False], [False, False, False, True]]
    assert units.of_first(exact([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]]))[0, :3].tolist() == [1.0, 1.0, 4.0]
    assert units.of_last(exact([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]]))[1, 1:].tolist() == [8.0, 8.0, 8.0]


def test_turn_advantages_by_hand():
    # gamma .5, lambda .5: the row goes on after turn 1, whose last decision led to a state worth 8
    # delta_1 = 3 + .5 * 8 - 2 = 5; delta_0 = (0 + 1) + .5 * 2 - 1 = 1; A_1 = 5, A_0 = 1 + .25 * 5 = 2.25
    filled = advantage(spoken(), gamma=0.5, lam=0.5)
    assert_close(filled.advantage, exact([[2.25, 2.25, 0.0, 5.0, 0.0]]))
    assert_close(filled.returns, exact([[3.25, 3.25, 0.0, 7.0, 0.0]]))


def test_a_termination_at_the_last_token_of_a_turn_leaves_nothing_to_come():
    # delta_1 = 3 - 2 = 1; delta_0 = 1 + 2 - 1 = 2; A_0 = 2 + 1
    ended = [[False, False, False, True, False]]
    assert_close(advantage(spoken(terminated=ended)).advantage, exact([[3.0, 3.0, 0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
@pytest.mark.parametrize("column", [1, 2], ids=["at the turn's last decision", "while the user speaks"])
def test_nothing_leaks_over_an_episodes_end(flag, column):
    # A_0 = 1 + rest - 1 with the rest 0 or the 60 that turn 0's last decision led to; the turn after it is apart
    ended = [[c == column for c in range(5)]]
    # an end outside the mask cuts, and the rest is what the domain says of it
    rest = 0.0 if flag == "terminated" and column == 1 else 60.0
    first, second = (advantage(spoken(**{flag: ended, "reward": [[0.0, 1.0, 0.0, r, 0.0]]})) for r in (3.0, 1e6))
    assert_close(first.advantage[0, :2], exact([rest, rest]))
    assert torch.equal(first.advantage[0, :2], second.advantage[0, :2])


@given(batches())
def test_with_turns_of_one_decision_it_is_gae(batch):
    alone = batch.replace(turn=torch.arange(batch.mask.shape[1]).expand_as(batch.mask))
    found, expected = advantage(alone, gamma=0.9, lam=0.8), make("advantage", "gae", gamma=0.9, lam=0.8)(batch)
    assert_close(found.advantage, expected.advantage)
    assert_close(found.returns, expected.returns)


@given(batches())
def test_all_decisions_of_a_turn_share_the_advantage(batch):
    filled = advantage(batch.replace(turn=batch.turn.sort(1).values), gamma=0.9, lam=0.8)
    turns = Units(filled.turn, filled.mask)
    assert_close(torch.where(filled.mask, turns.of_last(filled.advantage), 0), filled.advantage)


def test_only_the_value_at_a_turns_first_decision_is_trained():
    # 2 (V - y), twice for the turn of two decisions: 2 * 2 * (1 - 3) = -8; 2 * (2 - 7) = -10
    batch, leaf = with_leaf(spoken(value_pred=SPOKEN["value"], returns=[[3.0, 3.0, 0.0, 7.0, 0.0]]), "value_pred")
    loss = make("critic", "v", per_turn=True).loss(batch)
    assert_close(loss[batch.mask], exact([4.0, 4.0, 25.0]))
    torch.where(batch.mask, loss, 0).sum().backward()
    assert_close(leaf.grad, exact([[-8.0, 0.0, 0.0, -10.0, 0.0]]))


def test_a_clipped_value_is_compared_with_the_turns_own_old_one():
    # old 1 and 2, now 2 and 2: clipped to 1.2, error max(1, 1.8^2); y = 3 and 2
    changed = {"value_pred": [[2.0, 0.0, 0.0, 2.0, 0.0]], "returns": [[3.0, 3.0, 0.0, 2.0, 0.0]]}
    loss = make("critic", "v", per_turn=True, loss="clipped").loss(spoken(**changed))
    assert_close(loss[0, tensor([0, 1, 3])], exact([3.24, 3.24, 0.0]))


def test_rows_stay_whole_where_values_are_per_turn():
    info = DomainInfo("control", "any", independent_decisions=True, target_entropy=0.0, sample_unit="steps")
    for per_turn in (True, False):
        critic = {"name": "v", "per_turn": per_turn}
        made = Method.from_config({"objective": "policy_gradient", "critic": critic}, info)
        assert made.by_row is per_turn

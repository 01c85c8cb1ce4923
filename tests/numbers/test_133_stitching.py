"""[133] Stitching by temporal goal augmentation (Ghugare et al. 2024), on two routes that cross.

A -> C -> B and D -> C -> E; states are numbered A 0, C 1, B 2 (first episode), D 3, C 4, E 5 (second); decisions
A->C 0, C->B 1, D->C 2, C->E 3.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from unirl.control.data.dataset import DataOptions
from unirl.control.data.goals import GoalColumns, GoalDataset, Hindsight, Relabel, all_states
from unirl.control.data.transitions import episode_bounds
from unirl.control.mazes import crossing_routes

DATA = crossing_routes()
PLACES = {"A": (0, 2), "B": (2, 2), "C": (1, 1), "D": (0, 0), "E": (2, 0)}


def hindsight(**relabel) -> Hindsight:
    starts, lengths = episode_bounds(DATA.terminals, DATA.timeouts)
    return Hindsight(starts, lengths, all_states(DATA, starts, lengths), Relabel(clusters=5, **relabel))


def exact(row: int, **relabel) -> list[float]:
    return hindsight(**relabel).probabilities(row).tolist()


def test_without_augmentation_goals_are_the_later_states_of_the_same_episode():
    # from A: C or B, one half each; the pair (A, E) does not occur
    assert exact(0) == [0, 0.5, 0.5, 0, 0, 0]
    assert exact(1) == [0, 0, 1, 0, 0, 0]


def test_augmentation_makes_the_pair_that_no_episode_holds():
    # epsilon 1/2. From A: waypoint C (1/2), spliced (1/2) with the other episode's C, whose goals are C and E (1/2
    # each): 1/2 * 1/2 * 1/2 = 1/8 each. What is left: C 1/2 * 1/2 = 1/4. No other episode comes near B: 1/2.
    assert exact(0, augment=0.5) == [0, 0.25, 0.5, 0, 0.125, 0.125]
    # C of the first episode leads only to B: there is nothing to splice
    assert exact(1, augment=0.5) == [0, 0, 1, 0, 0, 0]


def test_the_released_form_also_takes_the_waypoint_itself():
    # Waypoint C (1/2), spliced (1/2), its own C or the other one (1/2): C, B and C, E, 1/2 each: 1/16.
    # C 1/4 + 1/16, B: 1/4 + 1/4 (B near B, whose only goal is B) + 1/16, other C and E 1/16
    assert exact(0, augment=0.5, variant="released") == [0, 0.3125, 0.5625, 0, 0.0625, 0.0625]


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_draws_have_the_exact_probabilities(variant):
    drawn = hindsight(augment=0.5, variant=variant)
    generator = torch.Generator().manual_seed(0)
    goals = drawn.sample(torch.zeros(40_000, dtype=torch.long), generator).goal
    share = torch.bincount(goals, minlength=6) / 40_000  # standard deviation at most 0.0025
    assert_close(share.double(), drawn.probabilities(0), atol=0.0125, rtol=0)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.floats(0.01, 1), st.sampled_from(["paper", "released"]))
def test_augmentation_mixes_the_plain_distribution_with_the_spliced_one(lengths, augment, variant):
    lengths = np.array(lengths)
    starts = np.cumsum(lengths) - lengths
    states = np.random.default_rng(0).normal(size=(lengths.sum() + len(lengths), 2)).astype(np.float32)
    plain, mixed, spliced = (
        Hindsight(starts, lengths, states, Relabel(share, 4, variant)) for share in (0.0, augment, 1.0)
    )
    for row in range(int(lengths.sum())):
        wanted = (1 - augment) * plain.probabilities(row) + augment * spliced.probabilities(row)
        assert_close(mixed.probabilities(row), wanted)
        assert_close(wanted.sum(), torch.tensor(1.0, dtype=torch.float64))
        own = int(plain.state_of(torch.tensor(row)))
        assert (plain.probabilities(row)[: own + 1] == 0).all()


def success(start: str, goal: str, **relabel) -> bool:
    """Whether tabular RvS arrives: in every place, for every goal, the most probable recorded action; none, no step."""
    drawn = hindsight(**relabel)
    starts, lengths = episode_bounds(DATA.terminals, DATA.timeouts)
    states = all_states(DATA, starts, lengths)
    table: dict[tuple, dict[tuple, float]] = {}
    for row, (place, action) in enumerate(zip(DATA.observations, DATA.actions, strict=True)):
        for state, probability in zip(states, drawn.probabilities(row).tolist(), strict=True):
            if probability > 0:
                actions = table.setdefault((*place, *state), {})
                actions[tuple(action)] = actions.get(tuple(action), 0.0) + probability
    place = np.array(PLACES[start], dtype=np.float32)
    for _ in range(2):
        actions = table.get((*place, *PLACES[goal]), {})
        if actions:
            place = place + np.array(max(actions, key=actions.get))
    return bool((place == PLACES[goal]).all())


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_tabular_success_on_unseen_pairs_is_0_without_and_1_with_augmentation(variant):
    for start, goal in ("AE", "DB"):
        assert success(start, goal) == 0
        assert success(start, goal, augment=0.5, variant=variant) == 1
    for start, goal in ("AB", "DE"):
        assert success(start, goal) == success(start, goal, augment=0.5, variant=variant) == 1


def test_batches_hold_goals_with_those_probabilities():
    # environment: what was achieved, what is asked for; the recording holds only the first
    columns = GoalColumns(achieved=(0, 1), desired=(2, 3))
    data = columns.asked_in(DATA, 4)
    made = GoalDataset(data, DataOptions(relabel={"augment": 0.5, "clusters": 5}), columns=columns)
    batch = made.sample(8000)
    observation = batch.inputs["observation"][:, 0]
    from_a = (observation[:, :2] == torch.tensor(PLACES["A"])).all(-1)
    to_e = (observation[:, 2:] == torch.tensor(PLACES["E"])).all(-1)
    assert_close(to_e[from_a].float().mean(), torch.tensor(0.125), atol=0.04, rtol=0)  # 2000 draws, 0.0074
    assert (batch.inputs["action"][from_a] == torch.tensor([1.0, -1.0])).all()
    assert_close(batch.inputs["next_observation"][..., 2:], batch.inputs["observation"][..., 2:])

"""PRDC [86]: the catalogue's numbers, and what the method becomes at its limits."""

import numpy as np
import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import make
from unirl.control.data.dataset import DataOptions, TransitionDataset
from unirl.control.data.transitions import Transitions
from unirl.errors import UserError

PAIRS = [(0.0, 0.0), (1.0, 1.0), (0.2, 0.5)]  # (state, action)


def recorded(pairs, **options) -> TransitionDataset:
    states, actions = np.array(pairs, dtype=np.float32).T[:, :, None]
    nothing = np.zeros(len(pairs), dtype=bool)
    rewards = np.zeros(len(pairs), dtype=np.float32)
    return TransitionDataset(Transitions(states, actions, rewards, states, nothing, nothing), DataOptions(**options))


def fitted(pairs=PAIRS, data_options=None, **options):
    model = make("model", "nearest_action", **options)
    model.fit(recorded(pairs, **(data_options or {})))
    return model


def distances(beta: float, state: float, action: float) -> list[float]:
    return [((beta * (state - s)) ** 2 + (action - a) ** 2) ** 0.5 for s, a in PAIRS]


def penalty(policy_action: Tensor, reference: Tensor) -> Tensor:
    batch = rows(policy_action=policy_action, model={"nearest_action": reference}, mask=torch.ones(1, 1).bool())
    return make("regularizer", "behavior", reference={"name": "nearest_action", "beta": 2.0})(batch)


@pytest.mark.parametrize(
    ("beta", "wanted"), [(2.0, [0.632456, 1.843909, 0.223607]), (50.0, [5.035871, 45.001778, 5.001000])]
)
def test_the_third_pair_is_nearest_and_its_action_the_reference(beta, wanted):
    assert_close(distances(beta, 0.1, 0.6), wanted, atol=5e-7, rtol=0)
    assert fitted(beta=beta).search(tensor([[[0.1]]]), tensor([[[0.6]]])).item() == 0.5


def test_the_penalty_and_its_gradient():
    # (.6 - .5)^2 = .01; the reference is constant: 2 (.6 - .5) = .2
    action = tensor([[[0.6]]], dtype=torch.float64, requires_grad=True)
    loss = penalty(action, fitted().search(tensor([[[0.1]]]).double(), action))
    assert_close(loss.item(), 0.01, atol=1e-12, rtol=0)
    loss.sum().backward()
    assert_close(action.grad.item(), 0.2)


@given(st.integers(0, 2), st.floats(0.0, 100.0))
def test_the_penalty_is_zero_at_a_recorded_pair(row, beta):
    state, action = (tensor([[[value]]]) for value in PAIRS[row])
    model = fitted(beta=beta)
    if beta == 0.0:
        assert model.search(state + 7.0, action) == action  # only the actions count
    assert penalty(action, model.search(state, action)).item() == 0.0


@given(st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5), st.integers(0, 2**31))
def test_with_a_large_weight_of_the_state_it_is_td3_bc(actions, seed):
    pairs = [(float(state), action) for state, action in enumerate(actions)]
    batch = recorded(pairs).sample(8)
    own = torch.rand(8, 1, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    reference = fitted(pairs, beta=1e6).search(batch.inputs["observation"], own)
    scored = batch.replace(policy_action=own, model={"nearest_action": reference})
    by_search = make("regularizer", "behavior", reference="nearest_action")(scored)
    assert torch.equal(by_search, make("regularizer", "behavior")(scored))


def test_several_neighbours_are_averaged_and_the_authors_code_takes_the_last_of_them():
    # nearest to (.1, .6) at beta 2: .5, then 0, then 1
    query = tensor([[[0.1]]]), tensor([[[0.6]]])
    for k, mean, last in ((1, 0.5, 0.5), (2, 0.25, 0.0), (3, 0.5, 1.0)):
        assert_close(fitted(k=k).search(*query).item(), mean)
        assert_close(fitted(k=k, variant="released").search(*query).item(), last)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([0.5, 2.0, 7.5]))
def test_the_search_agrees_with_looking_at_every_row(seed, k, beta):
    draw = torch.Generator().manual_seed(seed)
    pairs = torch.rand(300, 2, generator=draw) * 2 - 1
    query = torch.rand(16, 1, 2, generator=draw) * 2 - 1
    weights = tensor([beta, 1.0]).double()
    nearest = torch.cdist(query[:, 0] * weights, pairs * weights).topk(k, largest=False).indices
    found = fitted(pairs.tolist(), beta=beta, k=k).search(query[..., :1], query[..., 1:])
    assert_close(found[:, 0, 0], pairs[nearest, 1].mean(-1))


def test_with_slack_a_neighbour_is_at_most_that_much_farther():
    draw = torch.Generator().manual_seed(0)
    pairs = torch.rand(3000, 2, generator=draw)
    query = torch.rand(200, 1, 2, generator=draw)
    exact, quick = (
        fitted(pairs.tolist(), slack=slack, beta=0.0).search(query[..., :1], query[..., 1:]) for slack in (0, 2)
    )
    near, found = (exact - query[..., 1:]).abs(), (quick - query[..., 1:]).abs()
    assert bool((found <= 3 * near + 1e-6).all())


def test_states_are_normalised_in_the_tree_as_in_batches():
    # states 0 and 10, mean 5, std 5: normalised -1 and 1, whatever the units
    model = fitted([(0.0, -0.5), (10.0, 0.5)], {"normalize_observation": True}, beta=2.0)
    assert model.search(tensor([[[0.9]]]), tensor([[[-0.2]]])).item() == 0.5  # distances 3.8 and .73


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "mean"}, "unknown variant of model 'nearest_action'"),
        ({"k": 0}, "k 0"),
        ({"beta": -1.0}, "beta is -1"),
    ],
)
def test_what_the_search_cannot_do_is_said_in_one_line(options, words):
    with pytest.raises(UserError, match=words):
        make("model", "nearest_action", **options)


def test_more_neighbours_than_rows_and_no_rows_at_all_are_refused():
    with pytest.raises(UserError, match="k is 4, the data holds 3 rows"):
        fitted(k=4)
    with pytest.raises(UserError, match="it needs source offline or hybrid"):
        make("model", "nearest_action").search(tensor([[[0.1]]]), tensor([[[0.6]]]))


def test_the_reference_of_a_likelihood_is_refused():
    with pytest.raises(UserError, match="only the distance mse or squared has a reference"):
        make("regularizer", "behavior", distance="log_likelihood", reference="nearest_action")

from math import log

import pytest
import torch
from helpers import rows
from torch import nn, tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.errors import UserError
from unirl.memory.pairs import PairDataset
from unirl.preference.fitting import accuracy, fit, load_model, save_model
from unirl.preference.pairs import segment_pairs
from unirl.preference.reward_models import bradley_terry_loss, pooled, preference_loss

MLP = {"name": "inputs_mlp", "sizes": {"observation": 2, "action": 1}, "hidden": 32}


def segments(count, length=5, seed=0):
    """Random segments whose per-decision reward is x0 - a^2; some are one decision shorter."""
    generator = torch.Generator().manual_seed(seed)
    observation = torch.randn(count, length, 2, generator=generator)
    action = torch.rand(count, length, 1, generator=generator) * 2 - 1
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[::3, -1] = False
    reward = (observation[..., 0] - action[..., 0] ** 2) * mask
    return Batch(mask=mask, inputs={"observation": observation, "action": action}, reward=reward, score=reward.sum(-1))


def test_bradley_terry_loss_by_hand():
    # lead log 3: -log sigmoid = log(4/3); reversed label: log 4; label 1/2: the mean of both
    lead = tensor([log(3)] * 3, dtype=torch.float64)
    loss = bradley_terry_loss(lead, torch.zeros_like(lead), tensor([1.0, 0.0, 0.5], dtype=torch.float64))
    assert_close(loss, tensor([log(4 / 3), log(4), (log(4 / 3) + log(4)) / 2], dtype=torch.float64))


def test_bradley_terry_margin_shifts_the_preferred_side():
    # lead log 6, margin log 2: sigmoid(log 3) = 3/4; label 0: sigmoid(-log 6 - log 2) = 1 / 13
    lead = tensor([log(6)] * 2, dtype=torch.float64)
    loss = bradley_terry_loss(lead, torch.zeros_like(lead), tensor([1.0, 0.0], dtype=torch.float64), margin=log(2))
    assert_close(loss, tensor([log(4 / 3), log(13)], dtype=torch.float64))


def test_bradley_terry_gradient_by_hand():
    # d loss / d r_1 = sigmoid(lead) - label = 3/4 - 1 and 3/4 - 0.2; r_2 gets the opposite
    first = tensor([log(3), log(3)], dtype=torch.float64, requires_grad=True)
    second = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(first, second, tensor([1.0, 0.2], dtype=torch.float64)).sum().backward()
    assert_close(first.grad, tensor([-0.25, 0.55], dtype=torch.float64))
    assert_close(second.grad, -first.grad)


def test_preference_loss_by_hand():
    # P = 3/4, label 0.2: -(0.2 log 0.75 + 0.8 log 0.25); gradient 0.75 - 0.2
    logit = tensor([log(3)], dtype=torch.float64, requires_grad=True)
    loss = preference_loss(logit, tensor([0.2], dtype=torch.float64))
    assert_close(loss, tensor([-(0.2 * log(0.75) + 0.8 * log(0.25))], dtype=torch.float64))
    loss.sum().backward()
    assert_close(logit.grad, tensor([0.55], dtype=torch.float64))


@pytest.mark.parametrize(
    ("pool", "expected"), [("sum", [[4.0], [2.0]]), ("mean", [[2.0], [2.0]]), ("last", [[3.0], [2.0]])]
)
def test_pooling_by_hand(pool, expected):
    features = tensor([[[1.0], [3.0], [9.0]], [[9.0], [2.0], [9.0]]])
    mask = tensor([[True, True, False], [False, True, False]])
    assert_close(pooled(features, mask, pool), tensor(expected))


def test_pooling_a_row_without_decisions_gives_zeros():
    for pool in ("sum", "mean", "last"):
        assert_close(pooled(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool), pool), torch.zeros(1, 3))


@pytest.mark.parametrize("pool", ["sum", "mean", "last"])
def test_rewards_per_decision_add_up_to_the_score_and_ignore_padding(pool):
    model = make("preference_model", "bradley_terry", encoder=MLP, pool=pool)
    batch = segments(4)
    assert_close(model.rewards(batch).sum(-1), model.score(batch))
    assert (model.rewards(batch)[~batch.mask] == 0).all()


@pytest.mark.parametrize("name", ["bradley_terry", "pairwise"])
def test_probabilities_of_a_pair_and_its_reverse_add_up_to_one(name):
    model, batch = make("preference_model", name, encoder=MLP), segments(6)
    pairs = tensor([[0, 1], [2, 5]])
    taste = make("annotator", "by_model", model=model)
    assert_close(taste(batch, pairs) + taste(batch, pairs.flip(-1)), torch.ones(2))
    assert not taste(batch, pairs).requires_grad


def test_bradley_terry_learns_the_returns_of_segments():
    taste = make("annotator", "by_return")
    model = make("preference_model", "bradley_terry", encoder=MLP)
    losses = fit(model, segment_pairs(segments(400), taste, count=1000, seed=0), steps=150, pairs=128, lr=1e-2)
    unseen = segment_pairs(segments(400, seed=1), taste, count=1000, seed=1).rows
    assert losses[0] > 0.5 > losses[-1]
    assert accuracy(model, unseen) > 0.93


def cyclic_world(seed):
    """Rows of one decision whose score is their observation; the taste is rock-paper-scissors in it, without noise."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(400, generator=generator)
    observation = torch.stack([6 * score - 3, torch.zeros_like(score)], -1)[:, None]
    batch = Batch(
        mask=torch.ones(400, 1, dtype=torch.bool),
        inputs={"observation": observation, "action": torch.zeros(400, 1, 1)},
        score=score,
    )
    sure = make("annotator", "cyclic", payoff=[[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    return segment_pairs(batch, sure, count=2000, seed=seed)


def test_a_pairwise_model_learns_a_cyclic_taste_that_no_scalar_reward_can():
    # two thirds of the pairs differ in their bin; any ranking of three bins gets 2 of the 3 comparisons right
    reached = {}
    for name in ("bradley_terry", "pairwise"):
        model = make("preference_model", name, encoder=MLP)
        fit(model, cyclic_world(0), steps=200, pairs=256, lr=1e-2)
        reached[name] = accuracy(model, cyclic_world(1).rows)
    assert reached["bradley_terry"] < 0.7
    assert reached["pairwise"] > 0.95


def test_accuracy_leaves_ties_out():
    model = make("preference_model", "bradley_terry", encoder=lambda b: b.inputs["x"], width=1)
    nn.init.ones_(model.head.weight)
    batch = rows(inputs={"x": [[[1.0]], [[2.0]]]}, mask=torch.ones(2, 1).bool(), pairs=tensor([[1, 0], [0, 1], [0, 1]]))
    batch = batch.replace(inputs={"x": batch.inputs["x"].float()})
    assert accuracy(model, batch.replace(pair_label=tensor([1.0, 0.5, 1.0]))) == 0.5
    with pytest.raises(UserError, match="no pair of the batch has a preferred side"):
        accuracy(model, batch.replace(pair_label=tensor([0.5, 0.5, 0.5])))


def test_an_encoder_that_is_not_a_module_is_not_trained():
    model = make("preference_model", "bradley_terry", encoder=lambda b: b.inputs["observation"], width=2)
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]


def test_the_same_seed_makes_the_same_model_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = (make("preference_model", "pairwise", encoder=MLP, seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", ["bradley_terry", "pairwise"])
def test_a_saved_model_gives_the_same_preferences(tmp_path, name):
    model, batch, pairs = make("preference_model", name, encoder=MLP, seed=2), segments(6), tensor([[0, 1], [4, 2]])
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model").logit(batch, pairs), model.logit(batch, pairs))
    taste = make("annotator", "by_model", model=str(tmp_path / "model"))
    assert_close(taste(batch, pairs), torch.sigmoid(model.logit(batch, pairs)).detach())


def test_loading_what_is_not_there_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no preference model in"):
        load_model(tmp_path)
    save_model(make("preference_model", "pairwise", encoder=MLP), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="no preference model in"):
        load_model(tmp_path)


def test_a_model_over_a_bare_callable_cannot_be_saved(tmp_path):
    with pytest.raises(UserError, match="whose encoder was given as"):
        save_model(make("preference_model", "pairwise", encoder=lambda b: b.inputs["x"], width=2), tmp_path)


def test_reward_model_part_fills_score_and_rewards_without_gradient():
    model, batch = make("preference_model", "bradley_terry", encoder=MLP), segments(3)
    filled = make("reward", "reward_model", model=model, per_decision=True)(batch)
    assert_close(filled.reward, model.rewards(batch).detach())
    assert_close(filled.score, filled.reward.sum(-1))
    assert not filled.score.requires_grad
    with pytest.raises(UserError, match="gives no scalar"):
        make("reward", "reward_model", model=make("preference_model", "pairwise", encoder=MLP))


def test_models_refuse_what_they_cannot_use():
    with pytest.raises(UserError, match="pool is 'max'"):
        make("preference_model", "pairwise", encoder=MLP, pool="max")
    with pytest.raises(UserError, match="needs `width`"):
        make("preference_model", "pairwise", encoder=lambda b: b.inputs["x"])
    with pytest.raises(UserError, match="no 'pixels' among the inputs"):
        make("encoder", "inputs_mlp", sizes={"pixels": 3})(segments(2))


def test_fit_draws_the_same_pairs_for_the_same_seed():
    taste = make("annotator", "by_return")

    def run():
        model = make("preference_model", "bradley_terry", encoder=MLP)
        data = segment_pairs(segments(20), taste, count=30, seed=4)
        assert isinstance(data, PairDataset)
        return fit(model, data, steps=3, pairs=8)

    assert run() == run()

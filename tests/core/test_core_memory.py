import torch
from helpers import rows

from unirl.memory.pairs import PairDataset
from unirl.memory.replay import Replay


def segment(first: int, count: int):
    values = torch.arange(first, first + count, dtype=torch.float32)[None]
    return rows(reward=values, inputs={"observation": values[..., None]})


def test_replay_keeps_the_latest_and_samples_single_decisions():
    replay = Replay(capacity=4, seed=0)
    replay.add(segment(0, 3))
    replay.add(segment(3, 3))
    drawn = replay.sample(200)
    assert drawn.reward.shape == (200, 1)
    assert set(drawn.reward.flatten().tolist()) == {2.0, 3.0, 4.0, 5.0}
    assert torch.equal(drawn.inputs["observation"][..., 0], drawn.reward)


def test_replay_takes_no_more_than_its_capacity_from_one_batch():
    replay = Replay(capacity=3, seed=0)
    replay.add(segment(0, 10))
    assert set(replay.sample(100).reward.flatten().tolist()) == {7.0, 8.0, 9.0}


def test_replay_continues_the_same_draws_after_a_restart():
    replay = Replay(capacity=4, seed=0)
    replay.add(segment(0, 6))
    state = replay.state_dict()
    expected = replay.sample(5).reward
    other = Replay(capacity=4, seed=9)
    other.load_state_dict(state)
    assert torch.equal(other.sample(5).reward, expected)
    other.add(segment(6, 1))
    assert set(other.sample(200).reward.flatten().tolist()) == {3.0, 4.0, 5.0, 6.0}


def test_pairs_are_drawn_with_just_their_rows_and_labels():
    data = PairDataset(
        rows(logp=[[0.0], [1.0], [2.0], [3.0]]),
        pairs=torch.tensor([[0, 1], [3, 2]]),
        labels=torch.tensor([1.0, 0.25]),
        seed=0,
    )
    batch = data.sample(50)
    first = batch.logp[batch.pairs[:, 0], 0]
    second = batch.logp[batch.pairs[:, 1], 0]
    seen = set(zip(first.tolist(), second.tolist(), batch.pair_label.tolist(), strict=True))
    assert seen == {(0.0, 1.0, 1.0), (3.0, 2.0, 0.25)}

import torch
from helpers import rows

from unirl.trainer.minibatches import minibatches


def pieces(batch, **options):
    return list(minibatches(batch, **{"epochs": 1, "generator": torch.Generator().manual_seed(0), **options}))


def test_every_decision_comes_once_per_epoch_apart_from_its_row():
    batch = rows(logp=[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], mask=torch.tensor([[True] * 3, [True, True, False]]))
    found = pieces(batch, by="decision", parts=2, epochs=2)
    assert [len(piece) for piece in found] == [3, 2, 3, 2]
    assert sorted(torch.cat([piece.logp.flatten() for piece in found[:2]]).tolist()) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_pairs_stay_together():
    batch = rows(logp=[[0.0], [1.0], [2.0], [3.0]], pairs=torch.tensor([[0, 1], [3, 2]]), pair_label=torch.ones(2))
    found = pieces(batch, by="pair", parts=2)
    compared = {(p.logp[p.pairs[0, 0], 0].item(), p.logp[p.pairs[0, 1], 0].item()) for p in found}
    assert compared == {(0.0, 1.0), (3.0, 2.0)}


def test_a_batch_without_pairs_gives_no_update():
    batch = rows(logp=[[0.0]], pairs=torch.zeros(0, 2, dtype=torch.long))
    assert pieces(batch, by="pair", parts=1) == []

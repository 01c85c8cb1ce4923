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


def test_groups_stay_together_in_a_fresh_order_per_epoch():
    batch = rows(logp=[[float(row)] for row in range(12)], group=torch.tensor([7, 7, 7, 2, 2, 2, 5, 5, 5, 9, 9, 9]))
    found = pieces(batch, by="group", parts=2, epochs=8)
    assert [len(piece) for piece in found] == [6] * 16
    assert all(len(piece.group.unique()) == 2 for piece in found)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert sorted([*first.logp.flatten().tolist(), *second.logp.flatten().tolist()]) == list(range(12))
    assert len({frozenset(piece.group.tolist()) for piece in found}) > 2


def test_rows_are_shuffled_where_groups_are_fewer_than_parts_or_absent():
    one_group = rows(logp=[[0.0], [1.0], [2.0], [3.0]], group=torch.tensor([4, 4, 4, 4]))
    none = rows(logp=[[0.0], [1.0], [2.0], [3.0]])
    for batch in (one_group, none):
        same = pieces(batch, by="row", parts=2)
        assert [p.logp.tolist() for p in pieces(batch, by="group", parts=2)] == [p.logp.tolist() for p in same]


def test_a_batch_without_pairs_gives_no_update():
    batch = rows(logp=[[0.0]], pairs=torch.zeros(0, 2, dtype=torch.long))
    assert pieces(batch, by="pair", parts=1) == []

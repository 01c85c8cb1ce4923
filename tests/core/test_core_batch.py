import pytest
import torch
from helpers import rows
from torch.testing import assert_close

from unirl import Batch
from unirl.batch import MissingFieldError


def two_rows() -> Batch:
    return rows(
        logp=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        mask=torch.tensor([[True, True, True], [True, False, False]]),
        anchor_logp={"ref": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]},
        q=torch.arange(12.0).reshape(2, 2, 3),
        score=[1.0, 2.0],
        inputs={"observation": torch.arange(12.0).reshape(2, 3, 2)},
        pairs=torch.tensor([[0, 1]]),
        pair_label=torch.tensor([1.0]),
    )


def test_fields_read_as_attributes_in_the_shape_they_were_given():
    batch = two_rows()
    assert len(batch) == 2
    assert batch.q.shape == (2, 2, 3)
    assert_close(batch.q, torch.arange(12.0).reshape(2, 2, 3))
    assert_close(batch.anchor_logp["ref"][1, 2].item(), 0.6)
    assert "anchor_logp.ref" in batch
    assert "anchor_logp.prev" not in batch


def test_a_missing_field_names_itself_and_who_fills_it():
    with pytest.raises(MissingFieldError, match=r"`old_logp`; usually filled by domain.score"):
        _ = two_rows().old_logp
    with pytest.raises(MissingFieldError, match=r"anchor_logp.prev"):
        _ = two_rows().anchor_logp["prev"]


def test_a_missing_field_names_the_part_that_wanted_it():
    from unirl import make

    with pytest.raises(MissingFieldError, match=r"objective 'ppo_clip' needs `old_logp`"):
        make("objective", "ppo_clip")(rows(logp=[[0.0]], advantage=[[1.0]]))


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="unknown field 'logps'"):
        Batch(logps=torch.zeros(1, 1))


def test_replace_leaves_the_original_alone_and_merges_nested_names():
    batch = two_rows()
    other = batch.replace(score=torch.zeros(2), anchor_logp={"prev": torch.ones(2, 3)})
    assert_close(batch.score, torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert "anchor_logp.prev" not in batch
    assert sorted(other.anchor_logp) == ["prev", "ref"]
    assert "score" not in other.replace(score=None)


def test_indexing_keeps_pairs_whose_rows_are_kept_and_renumbers_them():
    batch = rows(logp=[[0.0], [1.0], [2.0]], pairs=torch.tensor([[2, 0], [0, 1]]), pair_label=torch.tensor([0.9, 0.2]))
    kept = batch[torch.tensor([2, 0])]
    assert kept.pairs.tolist() == [[0, 1]]
    assert_close(kept.pair_label, torch.tensor([0.9]))


def test_of_pairs_brings_just_the_rows_that_are_compared():
    batch = rows(logp=[[0.0], [1.0], [2.0]], pairs=torch.tensor([[2, 0], [0, 1]]), pair_label=torch.tensor([0.9, 0.2]))
    one = batch.of_pairs(torch.tensor([0]))
    assert len(one) == 2
    first, second = one.pairs[0]
    assert (one.logp[first, 0].item(), one.logp[second, 0].item()) == (2.0, 0.0)


def test_decisions_are_the_masked_columns_as_rows_of_their_own():
    flat = two_rows().decisions()
    assert flat.logp.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]
    assert flat.score.tolist() == [1.0, 1.0, 1.0, 2.0]
    assert flat.q.shape == (2, 4, 1)
    assert flat.q[1].flatten().tolist() == [6.0, 7.0, 8.0, 9.0]  # head 1 of row 0, then of row 1's first column
    assert flat.inputs["observation"].shape == (4, 1, 2)
    assert "pairs" not in flat


def test_cat_pads_decisions_right_and_context_left_and_renumbers_pairs():
    short = Batch(
        mask=torch.ones(1, 1, dtype=torch.bool), logp=torch.tensor([[7.0]]), context={"prompt": torch.tensor([[5, 6]])}
    )
    long = Batch(
        mask=torch.ones(1, 2, dtype=torch.bool),
        logp=torch.tensor([[8.0, 9.0]]),
        context={"prompt": torch.tensor([[4]])},
    )
    joined = Batch.cat([short, long])
    assert joined.logp.tolist() == [[7.0, 0.0], [8.0, 9.0]]
    assert joined.mask.tolist() == [[True, False], [True, True]]
    assert joined.context["prompt"].tolist() == [[5, 6], [0, 4]]
    twice = Batch.cat([two_rows(), two_rows()])
    assert twice.pairs.tolist() == [[0, 1], [2, 3]]


def test_gradients_reach_the_tensors_that_were_given():
    logp = torch.zeros(2, 2, requires_grad=True)
    batch = Batch(mask=torch.ones(2, 2, dtype=torch.bool), logp=logp)
    (batch[torch.tensor([1])].logp.sum() * 3).backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [[0.0, 0.0], [3.0, 3.0]]


def test_fields_make_the_same_batch_again():
    batch = Batch(
        mask=torch.ones(2, 3).bool(), q=torch.rand(4, 2, 3), anchor_logp={"ref": torch.zeros(2, 3)}, progress=0.5
    )
    again = Batch(**batch.fields())
    assert again.fields().keys() == batch.fields().keys()
    assert torch.equal(again.q, batch.q)
    assert torch.equal(again.anchor_logp["ref"], batch.anchor_logp["ref"])


def test_a_tensordict_holds_the_rows():
    batch = Batch(mask=torch.ones(2, 3).bool(), inputs={"x": torch.rand(2, 3, 5)}, q=torch.rand(4, 2, 3))
    made = batch.to_tensordict()
    assert made.batch_size == (2,)
    assert torch.equal(made["inputs", "x"], batch.inputs["x"])
    assert made["q"].shape == (2, 4, 3)  # rows first


def test_a_slice_is_a_view_of_the_rows():
    batch = Batch(mask=torch.ones(4, 1).bool(), reward=torch.arange(4.0)[:, None])
    assert batch[1:3].reward.flatten().tolist() == [1, 2]
    assert batch[1:3].reward.data_ptr() == batch.reward[1:].data_ptr()
    assert len(batch[3:9]) == 1

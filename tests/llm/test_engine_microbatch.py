"""Micro-batches: the same loss and gradient as the whole, groups and pairs kept together, little padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from unirl import Batch
from unirl.llm.microbatch import microbatches, prompt_lengths, response_lengths, row_pieces, same_prompt, trimmed


def batch_of_lengths(responses: list[int], prompts: list[int], **fields: object) -> Batch:
    """Rows padded to the longest; `inputs.feature` is a number per token; prompts of one length are the same."""
    width, context = max(responses) + 1, max(prompts) + 1
    mask = torch.arange(width) < torch.tensor(responses)[:, None]
    prompt_mask = torch.arange(context) >= context - torch.tensor(prompts)[:, None]
    generator = torch.Generator().manual_seed(0)
    return Batch(
        mask=mask,
        inputs={"feature": torch.randn(*mask.shape, 3, generator=generator, dtype=torch.float64)},
        context={"prompt": prompt_mask.long(), "prompt_mask": prompt_mask},
        advantage=torch.randn(*mask.shape, generator=generator, dtype=torch.float64),
        anchor_logp={"ref": mask.double()},
        q_data=torch.zeros(2, *mask.shape),
        score=torch.arange(len(responses)),
        **fields,
    )


RESPONSES, PROMPTS = [3, 9, 1, 7, 2, 9, 4, 1, 6, 5], [4, 2, 8, 3, 3, 1, 2, 5, 2, 2]


def gradient(pieces: list[Batch]) -> torch.Tensor:
    """Of sum (w . feature)^2 * advantage * mask / divisor, added up over the pieces."""
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for piece in pieces:
        loss = (piece.inputs["feature"] @ weight).square() * piece.advantage * piece.mask
        (loss.sum() / piece.divisor).backward()
    assert weight.grad is not None
    return weight.grad


def real_tokens(piece: Batch) -> int:
    """Responses, and every prompt once."""
    prompts, firsts = prompt_lengths(piece).tolist(), set(same_prompt(piece))
    return int(response_lengths(piece.mask).sum()) + sum(prompts[first] for first in firsts)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("budget", [10_000, 40, 17, 1])
def test_gradients_add_up_to_those_of_the_whole_batch(budget: int, packed: bool) -> None:
    batch = batch_of_lengths(RESPONSES, PROMPTS, divisor=torch.tensor(47.0, dtype=torch.float64))
    assert_close(gradient(microbatches(batch, budget, packed)), gradient([batch]), rtol=1e-10, atol=1e-10)


def test_pieces_hold_whole_groups_and_real_tokens_alone() -> None:
    # by prompt: length 4 has row 0 (4 + 3 = 7 tokens), 2 has rows 1 6 8 9 (2 + 9 + 4 + 6 + 5 = 26), 8 has 2 (9),
    # 3 has 3 4 (3 + 7 + 2 = 12), 1 has 5 (10), 5 has 7 (6). The largest first, into the first piece of 30 with room:
    # 26 | 12 + 10 + 7 | then 9 needs a third, and 6 joins it
    pieces = row_pieces(batch_of_lengths(RESPONSES, PROMPTS), 30)
    assert [rows.tolist() for rows in pieces] == [[1, 6, 8, 9], [3, 4, 5, 0], [2, 7]]


def test_a_group_that_exceeds_the_budget_is_split_and_each_part_counts_the_prompt() -> None:
    # 10 tokens of prompt and responses of 5: three to a piece of 25, and with the prompt once more three again
    pieces = row_pieces(batch_of_lengths([5] * 7, [10] * 7), 25)
    assert [rows.tolist() for rows in pieces] == [[0, 1, 2], [3, 4, 5], [6]]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=20),
    st.integers(1, 60),
)
def test_every_row_is_in_one_piece_and_pieces_keep_the_budget(lengths: list[tuple[int, int]], budget: int) -> None:
    responses, prompts = map(list, zip(*lengths, strict=True))
    pieces = microbatches(batch_of_lengths(responses, prompts), budget)
    assert sorted(torch.cat([piece.score for piece in pieces]).tolist()) == list(range(len(lengths)))
    assert all(len(piece) == 1 or real_tokens(piece) <= budget for piece in pieces)


def test_rows_with_padding_are_in_one_piece_each_and_keep_the_budget() -> None:
    batch = batch_of_lengths(RESPONSES, PROMPTS)
    pieces = microbatches(batch, 40, packed=False)
    assert sorted(torch.cat([piece.score for piece in pieces]).tolist()) == list(range(10))
    assert len(pieces) < 10
    for piece in pieces:
        assert len(piece) * (piece.mask.shape[1] + piece.context["prompt"].shape[1]) <= 40


def test_rows_of_similar_length_share_a_piece_where_padding_counts() -> None:
    # sorted: responses 9 9 | 8 8 | 2 2 | 1 1 with prompts of one token; (9 + 1) * 2 = 20 fits, a third row does not;
    # then (2 + 1) * 4 = 12 holds the four short ones, with padding for 2 tokens only
    batch = batch_of_lengths([1, 9, 2, 8, 1, 9, 2, 8], [1] * 8)
    assert [sorted(rows.tolist()) for rows in row_pieces(batch, 20, packed=False)] == [[1, 5], [3, 7], [0, 2, 4, 6]]


@pytest.mark.parametrize("packed", [False, True])
def test_compared_rows_stay_together_and_no_pair_is_lost(packed: bool) -> None:
    pairs = torch.tensor([[0, 1], [2, 3], [3, 4], [8, 9]])
    labels = torch.tensor([1.0, 0.9, 0.2, 0.6])
    batch = batch_of_lengths(RESPONSES, PROMPTS, pairs=pairs, pair_label=labels)
    pieces = microbatches(batch, 30, packed)
    assert len(pieces) > 2
    found = [
        (*piece.score[pair].tolist(), round(float(label), 1))
        for piece in pieces
        for pair, label in zip(piece.pairs, piece.pair_label, strict=True)
    ]
    assert sorted(found) == [(0, 1, 1.0), (2, 3, 0.9), (3, 4, 0.2), (8, 9, 0.6)]


def test_trimming_cuts_responses_on_the_right_and_prompts_on_the_left() -> None:
    batch = trimmed(batch_of_lengths(RESPONSES, PROMPTS)[torch.tensor([0, 4])])  # responses 3 and 2, prompts 4 and 3
    assert batch.mask.tolist() == [[True] * 3, [True, True, False]]
    assert batch.context["prompt_mask"].tolist() == [[True] * 4, [False, True, True, True]]
    assert batch.anchor_logp["ref"].shape == (2, 3) and batch.q_data.shape == (2, 2, 3)
    assert batch.inputs["feature"].shape == (2, 3, 3) and batch.score.tolist() == [0, 4]


def test_prompts_are_the_same_token_by_token_whatever_lies_in_the_padding() -> None:
    prompt = torch.tensor([[0, 5, 6], [7, 5, 6], [5, 5, 6], [0, 5, 7]])
    real = torch.tensor([[False, True, True], [False, True, True], [True, True, True], [False, True, True]])
    batch = Batch(mask=torch.ones(4, 1, dtype=torch.bool), context={"prompt": prompt, "prompt_mask": real})
    assert same_prompt(batch) == [0, 0, 2, 3]


def test_a_response_reaches_to_its_last_masked_token() -> None:
    mask = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    assert response_lengths(mask).tolist() == [3, 0, 4]

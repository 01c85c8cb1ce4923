"""Scoring by unirl: log-probabilities of 64 or 8 responses and their gradient, packed or padded.

Arguments: `packed` or `padded`; `mixed` (64 rows, uniform from 16 to 256 tokens, a quarter of them prompt) or
PROMPTxRESPONSE (8 responses to one prompt); the token budget of a piece. `head` as a fourth argument leaves the model
out: what of the time the output projection takes.
"""

import random
import sys
from importlib.metadata import version

import torch
from pacer import Pacer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from unirl import Batch
from unirl.llm.microbatch import microbatches
from unirl.llm.rows import left_padded, right_padded
from unirl.llm.scoring import Scorer
from unirl.llm.token_statistics import Head, token_statistics
from unirl.llm.variants import variants_of

VOCABULARY, WIDTH = 4096, 128
WARM_UP, STEPS = 2, 1


def network() -> LlamaForCausalLM:
    """Four random layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval()


def lengths(case: str) -> list[tuple[int, int]]:
    """Tokens of the prompt and of the response of every row."""
    if case == "mixed":
        totals = [16 + round(240 * row / 63) for row in range(64)]  # evenly spread, as a uniform distribution is
        random.Random(0).shuffle(totals)
        return [(total // 4, total - total // 4) for total in totals]
    prompt, response = map(int, case.split("x"))
    return [(prompt, response)] * 8


def rows(case: str) -> Batch:
    """Random tokens; the prompts are equal where they are equally long and the case is not mixed."""
    generator = random.Random(1)

    def text(count: int) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(count)]

    sizes = lengths(case)
    one = text(sizes[0][0])
    prompt, prompt_mask = left_padded([text(p) if case == "mixed" else one for p, _ in sizes], 0)
    token, mask = right_padded([text(r) for _, r in sizes], 0)
    return Batch(mask=mask, inputs={"token": token}, context={"prompt": prompt, "prompt_mask": prompt_mask})


def only_head(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Log-probabilities as if the model were free."""
    tokens = batch.inputs["token"][batch.mask]
    states = torch.zeros(len(tokens), WIDTH, requires_grad=True)
    return token_statistics(states, tokens, Head.of(model, 1.0))["logp"].sum()


def main() -> None:
    side, case, budget = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model, batch = network(), rows(case)
    scorer = Scorer(variants_of(model), None, packed=side == "packed")
    count = int(batch.mask.sum() + batch.context["prompt_mask"].sum())
    pacer = Pacer(STEPS * count)

    def step() -> None:
        model.zero_grad()
        for piece in microbatches(batch, budget, scorer.packed):
            (only_head(model, piece) if sys.argv[4:] else scorer(piece, {"logp"})["logp"].sum()).backward()

    for _ in range(WARM_UP):
        step()
    pacer.ready(unirl=version("unirl"), torch=version("torch"), transformers=version("transformers"))
    while True:
        step()
        pacer.tick(count)


if __name__ == "__main__":
    main()

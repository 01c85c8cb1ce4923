"""What both GRPO workers train: a random language model of four layers, and its prompts.

Nothing forces the responses to their full length: a random model draws the end-of-sequence token once in as many tokens
as its vocabulary has, so that over 99 percent of the tokens that are counted were drawn.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PROMPTS, PROMPT_TOKENS = 2048, 64
ROWS, GROUP, NEW_TOKENS = 64, 8, 64  # responses per iteration, to each prompt, and their length
LEARNING_RATE, CLIP_NORM = 1e-6, 1.0


def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The share of even tokens: different in every response, and next to free."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def prompts(vocabulary: int) -> list[str]:
    """Random words, one token each, the same in both workers."""
    generator = random.Random(0)
    return [" ".join(f"w{generator.randrange(2, vocabulary)}" for _ in range(PROMPT_TOKENS)) for _ in range(PROMPTS)]


def write(folder: Path, vocabulary: int) -> None:
    """A model folder in the hub's layout, with `prompts.jsonl` beside it."""
    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    records = [json.dumps({"question": prompt, "answer": "0"}) for prompt in prompts(vocabulary)]
    (folder / "prompts.jsonl").write_text("\n".join(records) + "\n")

"""What both generation workers sample from: a random Qwen3 of four layers; every token may end its response."""

import math
import random

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

PAD, EOS = 0, 1
PROMPTS, PROMPT_TOKENS, SAMPLES, NEW_TOKENS = 8, 64, 8, 128
NEVER = 1e-9


def model(vocabulary: int, end: float) -> Qwen3ForCausalLM:
    """All tokens are about as likely, but for the one that ends a response, whose chance is `end`.

    With `end` = 0.03 half of the responses have at most 23 tokens, and a batch of 64 nearly always one of 128.
    """
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    network = Qwen3ForCausalLM(config).eval()
    head = nn.Linear(config.hidden_size, vocabulary)
    with torch.no_grad():
        head.weight.copy_(network.lm_head.weight)
        head.bias.zero_()
        head.bias[EOS] = math.log(max(end, NEVER) * vocabulary)
    network.lm_head = head
    return network


def prompts(vocabulary: int, call: int) -> list[list[int]]:
    """Eight prompts of random tokens, others in every call, the same in both workers."""
    generator = random.Random(call)
    return [[generator.randrange(2, vocabulary) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]

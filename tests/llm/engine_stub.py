"""A random model of a few thousand parameters, a character tokenizer and a toy task, for the engine's tests."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CHARACTERS = "<>0123456789+="
PAD, EOS = 0, 1


def network(seed: int = 0, hidden: int = 32, dtype: torch.dtype = torch.float32, **options: Any) -> Qwen3ForCausalLM:
    """A random Qwen3 with weights large enough that tokens differ in probability."""
    sizes = {
        "vocab_size": len(CHARACTERS),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": hidden // 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
    }
    torch.manual_seed(seed)
    config = Qwen3Config(**{**sizes, "pad_token_id": PAD, "eos_token_id": EOS, **options})
    return Qwen3ForCausalLM(config).to(dtype).eval()


def tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """One token per character; `<` pads and `>` ends."""
    model = Tokenizer(WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="<"))
    model.pre_tokenizer = Split(Regex(""), "isolated")
    model.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=model, **{"pad_token": "<", "eos_token": ">", **special})


def saved(folder: Path, seed: int = 0, **options: Any) -> str:
    """A model folder in the hub's layout."""
    network(seed, **options).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True)
class ToyPrompt:
    token_ids: list[int]
    reference: str
    prompt_id: int
    text: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


class ToyTask:
    """Prompts of 2 to 5 digits; the score is the share of digits in the response that are even."""

    has_reward = True

    def __init__(self, seed: int = 0, max_new_tokens: int = 6) -> None:
        self.max_new_tokens = max_new_tokens
        self._generator = np.random.default_rng(seed)

    def prompts(self, n: int) -> list[ToyPrompt]:
        return [self._prompt(self._generator) for _ in range(n)]

    def held_out(self, n: int) -> list[ToyPrompt]:
        generator = np.random.default_rng(99)
        return [self._prompt(generator) for _ in range(n)]

    def reward(self, prompts: Any, completions: list[str], completion_ids: Any) -> dict[str, list[float]]:
        even = [sum(c in "02468" for c in text) / max(len(text), 1) for text in completions]
        return {"score": even, "length": [float(len(ids)) for ids in completion_ids]}

    def demonstrations(self, n: int) -> list[tuple[ToyPrompt, list[int]]]:
        return [(prompt, [2, 4, EOS][: 2 + prompt.prompt_id % 2]) for prompt in self.held_out(n)]

    def pairs(self, held_out: bool = False) -> Any:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"generator": dict(self._generator.bit_generator.state)}

    def load_state_dict(self, state: Any) -> None:
        self._generator.bit_generator.state = dict(state["generator"])

    def _prompt(self, generator: np.random.Generator) -> ToyPrompt:
        ids = generator.integers(2, 12, size=int(generator.integers(2, 6))).tolist()
        return ToyPrompt(ids, "", int("".join(str(i) for i in ids)))

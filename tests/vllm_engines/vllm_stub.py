"""A random model that vLLM runs on processors, policies on it, and what their log-probabilities should be."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from unirl.llm.models import LoraSettings, adapt
from unirl.llm.rollout import Responses, Sampling
from unirl.llm.truncation import Truncation
from unirl.llm.variants import POLICY, Variants, variants_of
from unirl.registry import make

VOCABULARY = 512
CONTEXT = 512
TOLERANCE = 2e-5  # nats: float32 in both


def network(seed: int = 0, tied: bool = True, dtype: torch.dtype = torch.float32) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).to(dtype).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1")


@dataclass
class Policy:
    """A policy in training, and the number of its version."""

    variants: Variants
    version: int = 0
    _noise: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(7))

    @staticmethod
    def make(lora: int = 0, **options: Any) -> "Policy":
        model = network(**options)
        return Policy(variants_of(adapt(model, LoraSettings(rank=lora, alpha=2 * lora), 0) if lora else model))

    @torch.no_grad()
    def learn(self, engine: Any, size: float = 0.03) -> None:
        """Change every trained weight and bring the engine up to date."""
        for weight in self.variants.parameters(POLICY):
            weight.add_(torch.randn(weight.shape, generator=self._noise).to(weight.dtype) * size)
        self.version += 1
        engine.update_weights(self.variants.weights(), self.version)

    @torch.no_grad()
    def logits(self, prompt: list[int], tokens: Tensor) -> Tensor:
        """What every token of a response was drawn from, [T, V], read in one pass over prompt and response."""
        with self.variants.using(POLICY) as model:
            return _logits(model, [*prompt, *tokens.tolist()])[len(prompt) - 1 : -1]


def _logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def prompts(count: int = 16, length: int = 20, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY, (count, length), generator=generator).tolist()


def sampling(**options: Any) -> Sampling:
    return Sampling(**{"max_new_tokens": 24, "stop": (), "pad": 0, **options})


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(logits: Tensor, temperature: float = 1.0, truncation: Truncation | None = None) -> Tensor:
    """The log-probabilities of the truncated distribution, [T, V]; one rule after the other, each over what is left."""
    p = (logits / temperature).softmax(-1)
    cut = truncation or Truncation()
    p = p.where(p >= cut.min_p * p.max(-1, keepdim=True).values, 0.0)
    if cut.top_k:
        p = p.where(p >= p.topk(cut.top_k).values[:, -1:], 0.0)
    p = p / p.sum(-1, keepdim=True)
    ordered, order = p.sort(-1, descending=True)
    likelier = (ordered.cumsum(-1) - ordered) < cut.top_p  # the share before this token is not full yet
    p = p.where(torch.zeros_like(likelier).scatter(-1, order, likelier), 0.0)
    return (p / p.sum(-1, keepdim=True)).log()


def largest_error(policy: Policy, asked: list[list[int]], found: Responses, wanted: Sampling) -> float:
    """The largest difference between reported log-probabilities and those of the network itself."""
    n = len(found.tokens) // len(asked)
    worst = 0.0
    for row in range(len(found.tokens)):
        tokens = found.tokens[row][found.mask[row]]
        logits = policy.logits(asked[row // n], tokens)
        logp = by_hand(logits, wanted.temperature, wanted.truncation).gather(1, tokens[:, None]).squeeze(1)
        worst = max(worst, float((logp - found.logp[row][found.mask[row]]).abs().max()))
    return worst


@contextmanager
def opened(policy: Policy) -> Iterator[Any]:
    """vLLM in this process, with the policy's weights."""
    engine = make("engine", "vllm", memory=0.1)
    engine.open(policy.variants, tokenizer(), None)
    try:
        engine.update_weights(policy.variants.weights(), policy.version)
        yield engine
    finally:
        engine.close()

"""What samples responses: the interface of roll-out engines, what they are asked for, and what they give back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from unirl.errors import UserError
from unirl.llm.truncation import EVERY_TOKEN, Truncation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unirl.llm.variants import Variants


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: from softmax(logits / temperature), truncated, or the likeliest where `greedy`.

    `stop`: the tokens that end a response. `pad`: what stands behind its end. `top_logprobs`: how many of the likeliest
    tokens of every step are reported too. `entropy`: report the entropy of what every token was drawn from.
    """

    max_new_tokens: int
    stop: tuple[int, ...]
    pad: int
    temperature: float = 1.0
    truncation: Truncation = EVERY_TOKEN
    greedy: bool = False
    top_logprobs: int = 0
    entropy: bool = False


@dataclass(frozen=True)
class Responses:
    """Sampled tokens exactly as drawn: N = len(prompts) * n rows, row i answers prompt i // n; right-padded.

    `tokens`, `logp` [N, T]: with the log-probability of each token under exactly what it was drawn from, temperature
    and truncation included. `mask` [N, T]: drawn tokens, the stop token included. `ended` [N]: a stop token was drawn;
    the others ran into the limit. `version` [N, T]: that of the policy that drew each token.
    `top_tokens`, `top_logp` [N, T, k] and `entropy` [N, T] only where they were asked for; a token that truncation
    rules out has a log-probability of minus infinity.
    """

    tokens: Tensor
    logp: Tensor
    mask: Tensor
    ended: Tensor
    version: Tensor
    top_tokens: Tensor | None = None
    top_logp: Tensor | None = None
    entropy: Tensor | None = None

    @staticmethod
    def cat(parts: Sequence["Responses"]) -> "Responses":
        """The rows of all parts, padded to the longest."""
        longest = max(part.tokens.shape[1] for part in parts)

        def padded(leaf: Tensor) -> Tensor:
            beyond = [0, 0] * (leaf.ndim - 2)  # `functional.pad` counts dimensions from the last
            return functional.pad(leaf, (*beyond, 0, longest - leaf.shape[1])) if leaf.ndim > 1 else leaf

        names = parts[0]._names
        return Responses(**{name: torch.cat([padded(getattr(part, name)) for part in parts]) for name in names})

    def rows(self, order: Tensor) -> "Responses":
        """The rows in another order."""
        return Responses(**{name: getattr(self, name)[order] for name in self._names})

    @property
    def _names(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


class Engine(Protocol):
    """Draws responses from the policy. Made from its options alone; nothing heavy happens before `open`.

    Registered under the kind `engine` and chosen by `domain.engine`. To continue a text from any place, give a prompt
    that ends there.
    """

    @property
    def version(self) -> int:
        """The policy's version that was last given to `update_weights`."""
        ...

    def open(self, variants: "Variants", tokenizer: "PreTrainedTokenizerBase", path: str | None) -> None:
        """Get ready to sample. `path`: the model's folder or hub id, None for one that exists in memory only."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, generator: torch.Generator
    ) -> Responses:
        """`n` responses to every prompt (token ids). The same generator state gives the same tokens."""
        ...

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Sample from this policy from now on: what `Variants.weights` gives, and its number."""
        ...

    def close(self) -> None:
        """Give back what `open` took: processes, memory."""
        ...


def check_prompts(prompts: Sequence[Sequence[int]], sampling: Sampling, longest: int | None, advice: str) -> None:
    """Raise `UserError`, with the engine's advice, for an empty prompt and for one without room for a response.

    `longest`: the most tokens of prompt and response together, None where there is no limit.
    """
    if not all(prompts):
        raise UserError("a prompt has no tokens; the model needs at least one to start from")
    most = max(len(prompt) for prompt in prompts)
    if longest is not None and most + sampling.max_new_tokens > longest:
        raise UserError(
            f"a prompt of {most} tokens and a response of up to {sampling.max_new_tokens} do not fit into the "
            f"{longest} tokens that {advice}"
        )


@runtime_checkable
class MixtureEngine(Engine, Protocol):
    """An engine that can also draw from several variants at once."""

    def generate_mixture(
        self,
        mixture: Sequence[tuple[str, float]],
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> Responses:
        """As `generate`, from softmax(sum of weight * logits), over the (variant, weight) of the mixture.

        Two variants with weights 1 - b and b give the geometric mixture policy^(1-b) * anchor^b.
        """
        ...

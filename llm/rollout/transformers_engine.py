"""The engine that samples from the trainer's own network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unirl.errors import UserError
from unirl.llm.rollout.engine import Responses, Sampling, check_prompts
from unirl.registry import register

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unirl.llm.variants import Variants

ADVICE = "the model's context has; shorten the prompt or lower task.max_new_tokens"
OWN = (("<policy>", 1.0),)  # the policy alone (`unirl.llm.variants.POLICY`, whose module needs transformers)


@register("engine", "transformers")
class TransformersEngine:
    """Samples from the network that is being trained: no second copy of the weights, never out of date.

    `rows`: how many responses are drawn at once, those to prompts of about the same length together. Identical prompts
    are read once, finished rows leave the batch, and the same generator state gives the same tokens bit for bit. It can
    also draw from geometric mixtures of policies.
    """

    def __init__(self, rows: int = 512) -> None:
        if rows < 1:
            raise UserError(f"domain.engine.rows is {rows}; it must be at least 1")
        self.rows = rows
        self._version = 0
        self._variants: Variants | None = None

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return self._version

    def open(self, variants: "Variants", tokenizer: "PreTrainedTokenizerBase", path: str | None) -> None:
        """See `Engine.open`. Nothing is loaded: the network is there already."""
        self._variants = variants

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Note the version: the weights are the trainer's own."""
        self._version = version

    def close(self) -> None:
        """See `Engine.close`."""
        self._variants = None

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling, generator: torch.Generator
    ) -> Responses:
        """See `Engine.generate`.

        Raises `UserError` for an empty prompt, and for one that leaves no room for `max_new_tokens` in the model's
        context.
        """
        return self.generate_mixture(OWN, prompts, n, sampling, generator)

    def generate_mixture(
        self,
        mixture: Sequence[tuple[str, float]],
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> Responses:
        """See `MixtureEngine.generate_mixture`. Raises as `generate`, and for an unknown anchor."""
        from unirl.llm.models import context_length
        from unirl.llm.rollout.decoding import decode

        if self._variants is None:
            raise RuntimeError("open the engine before it generates")
        with self._variants.using(OWN[0][0]) as network:
            check_prompts(prompts, sampling, context_length(network), ADVICE)
        order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), *prompts[place]))
        pieces = [
            decode(self._variants, mixture, [prompts[place] for place in some], n, sampling, generator, self._version)
            for some in self._pieces(order, n)
        ]
        found = Responses.cat(pieces)  # copies: no longer inference tensors
        places = torch.tensor(order, device=found.tokens.device).argsort()
        return found.rows((places[:, None] * n + torch.arange(n, device=places.device)).flatten())

    def _pieces(self, order: Sequence[int], n: int) -> Iterator[Sequence[int]]:
        at_once = max(1, self.rows // n)
        for start in range(0, len(order), at_once):
            yield order[start : start + at_once]

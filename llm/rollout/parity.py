"""The check that an engine with weights of its own samples from the policy that is being trained."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unirl.errors import UserError
from unirl.llm.rollout.engine import Responses, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from unirl.llm.variants import Variants

PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 4, 8, 16
TEMPERATURE = 1.25  # not 1: an engine that reports log-probabilities before the temperature is found out as well
CHECKED_VERSIONS = 2  # the weights that an engine starts with, and the first that training has changed
TOLERANCES = {torch.float32: 1e-3}  # nats per token, on the average
HALF_TOLERANCE = 0.05  # rounding to bfloat16 alone makes a hundredth

Generate = Callable[[Sequence[Sequence[int]], int, Sampling, torch.Generator], Responses]


class Parity:
    """Compares an engine's log-probabilities with those of the trainer's own network, after the first two updates.

    `tolerance`: the mean absolute difference per token, in nats, that passes; None takes 0.001 for float32 and 0.05
    for 16 bits. On processors float32 differs by 1e-6 and bfloat16 by 0.01.
    """

    def __init__(self, engine: str, tolerance: float | None) -> None:
        if tolerance is not None and not tolerance > 0:
            raise UserError(f"domain.engine.tolerance is {tolerance}; it must be above 0")
        self._engine, self._tolerance = engine, tolerance
        self._checked: set[int] = set()

    def check(self, variants: "Variants", generate: Generate, version: int) -> None:
        """Raise `UserError` where the engine samples from something else than the policy."""
        if len(self._checked) >= CHECKED_VERSIONS or version in self._checked:
            return
        self._checked.add(version)
        from unirl.llm.variants import POLICY

        with variants.using(POLICY) as network:
            found = mismatch(network, generate)
            dtype = network.dtype
        allowed = TOLERANCES.get(dtype, HALF_TOLERANCE) if self._tolerance is None else self._tolerance
        if not found <= allowed:
            raise UserError(
                f"engine '{self._engine}' does not sample from the policy that is trained: after the update to version "
                f"{version} their log-probabilities differ by {found:.2g} nats per token (domain.engine.tolerance "
                f"{allowed:g}); take domain.engine.name=transformers"
            )


@torch.inference_mode()
def mismatch(network: "PreTrainedModel", generate: Generate) -> float:
    """Mean absolute difference, in nats per token, on tokens that the engine draws after arbitrary prompts."""
    embeddings: Any = network.get_input_embeddings()
    vocabulary, device = int(embeddings.weight.shape[0]), network.device
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(vocabulary, (PROMPTS, PROMPT_TOKENS), generator=generator)
    sampling = Sampling(max_new_tokens=NEW_TOKENS, stop=(), pad=0, temperature=TEMPERATURE)
    drawn = generate(prompts.tolist(), 1, sampling, generator)
    logp = _logp(network, prompts.to(device), drawn.tokens.to(device))
    return float((logp - drawn.logp.to(device)).abs().mean())


def _logp(network: "PreTrainedModel", prompts: Tensor, tokens: Tensor) -> Tensor:
    logits: Tensor = network(input_ids=torch.cat([prompts, tokens], 1), use_cache=False).logits
    logp = (logits[:, prompts.shape[1] - 1 : -1].float() / TEMPERATURE).log_softmax(-1)
    return logp.gather(2, tokens[:, :, None]).squeeze(2)

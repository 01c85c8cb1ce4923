"""Between a domain and its engine: choosing the engine, keeping it up to date, groups with an opponent."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from unirl.domain import Opponent
from unirl.errors import UserError
from unirl.llm.rollout.engine import Engine, MixtureEngine, Responses, Sampling
from unirl.llm.variants import POLICY, Variants
from unirl.registry import make


class Sampler:
    """Responses from the current policy, whose versions are numbered from 0 on.

    `engine`: a name among `unirl parts engine`, or `{name, options}`. The engine is given the policy whenever it has
    changed since the engine last got it, which is told by the counters that torch keeps of in-place changes to every
    parameter. Raises `UserError` for an unknown engine or option.
    """

    def __init__(
        self,
        engine: str | Mapping[str, Any],
        variants: Variants,
        tokenizer: PreTrainedTokenizerBase,
        path: str | None,
    ) -> None:
        self.engine = _made(engine)
        self.engine.open(variants, tokenizer, path)
        self._variants = variants
        self._version = 0
        self._counters: list[int] | None = None  # the parameters' own, when `_version` was the policy's number
        self._sent: int | None = None

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        generator: torch.Generator,
        opponent: Opponent | None = None,
    ) -> Responses:
        """`group_size` responses to every prompt; with an opponent, the last `per_group` of each group are its own.

        The opponent draws from policy^(1-b) * anchor^b with b = `opponent.mixture`. Raises `UserError` where the engine
        cannot do that.
        """
        if opponent is None:
            self._bring_up_to_date()
            return self.engine.generate(prompts, group_size, sampling, generator)
        mixing = _able_to_mix(self.engine)
        self._bring_up_to_date()
        own, parts = group_size - opponent.per_group, []
        if own:
            parts.append(mixing.generate(prompts, own, sampling, generator))
        mixture = [(POLICY, 1.0 - opponent.mixture), (opponent.anchor, opponent.mixture)]
        parts.append(mixing.generate_mixture(mixture, prompts, opponent.per_group, sampling, generator))
        return _interleaved(parts, len(prompts))

    @property
    def version(self) -> int:
        """The policy's number: one more than before, if the policy has changed since this was last asked for."""
        counters = self._count()
        if self._counters is not None and counters != self._counters:
            self._version += 1
        self._counters = counters
        return self._version

    def state_dict(self) -> dict[str, Any]:
        """The policy's number."""
        return {"version": self.version}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, after the policy itself was restored."""
        self._version = int(state["version"])
        self._counters, self._sent = self._count(), None

    def _bring_up_to_date(self) -> None:
        if self._sent != self.version:
            self.engine.update_weights(self._variants.weights(), self._version)
            self._sent = self._version

    def _count(self) -> list[int]:
        return [parameter._version for parameter in self._variants.parameters(POLICY)]


def _made(chosen: str | Mapping[str, Any]) -> Engine:
    if not isinstance(chosen, str | Mapping):
        raise UserError(f"domain.engine is {chosen!r}; it must be a name or {{name: ..., options}}")
    options = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
    if "name" not in options:
        raise UserError("domain.engine has no name; give one of `unirl parts engine`")
    engine: Engine = make("engine", options.pop("name"), **options)
    return engine


def _able_to_mix(engine: Engine) -> MixtureEngine:
    if not isinstance(engine, MixtureEngine):
        raise UserError("the method samples from a mixture of two policies, which only domain.engine=transformers can")
    return engine


def _interleaved(parts: Sequence[Responses], groups: int) -> Responses:
    """Rows of several samplers side by side in every group: [own..., opponent...] per prompt."""
    joined = Responses.cat(parts)
    order, start = [], 0
    for part in parts:
        count = len(part.tokens)
        order.append((start + torch.arange(count, device=joined.tokens.device)).reshape(groups, -1))
        start += count
    return joined.rows(torch.cat(order, 1).reshape(-1))

"""The decoding loop: one prefill per prompt, a key-value cache, finished rows leave the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unirl.llm.rollout.cache import RoomyLayer, keep_rows, roomy_cache
from unirl.llm.rollout.draw import Drawn, draw
from unirl.llm.rollout.engine import Responses, Sampling
from unirl.llm.rollout.grouped_attention import grouped, grouping
from unirl.llm.rows import left_padded
from unirl.llm.states import positions
from unirl.llm.token_statistics import Head
from unirl.llm.variants import POLICY, Variants


@torch.inference_mode()
def decode(
    variants: Variants,
    mixture: Sequence[tuple[str, float]],
    prompts: Sequence[Sequence[int]],
    n: int,
    sampling: Sampling,
    generator: torch.Generator,
    version: int,
) -> Responses:
    """`n` responses to every prompt from the mixture of (variant, weight); see `MixtureEngine.generate_mixture`.

    Identical prompts are read once. The tensors are inference tensors: who trains on them clones them.
    """
    with variants.using(POLICY) as network:
        device = network.device
    place = {prompt: index for index, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    prompt, mask = (leaf.to(device) for leaf in left_padded(list(place), sampling.pad))
    of_row = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device).repeat_interleave(n)
    decoders = [_Decoder(variants, name, prompt, mask, of_row, sampling) for name, _ in mixture]
    weights = [weight for _, weight in mixture]
    record = _Record(len(of_row), sampling, decoders[0].logits)
    stop = torch.tensor(sampling.stop, device=device)
    rows = torch.arange(len(of_row), device=device)  # those that are still in the batch
    for step in range(sampling.max_new_tokens):
        drawn = draw(_mixed([decoder.logits for decoder in decoders], weights), sampling, generator)
        record.write(step, rows, drawn)
        goes_on = ~torch.isin(drawn.tokens, stop)
        left = int(goes_on.sum())
        if left == 0 or step + 1 == sampling.max_new_tokens:
            break
        token = drawn.tokens
        if left < len(rows):
            keep = _closed_up(goes_on, left)
            rows, token = rows[keep], token[keep]
            for decoder in decoders:
                decoder.keep(keep)
        for decoder in decoders:
            decoder.advance(token)
    return record.responses(step + 1, rows[goes_on], version)


class _Record:
    """What was drawn so far: tensors [rows, max_new_tokens, ...] by their names in `Responses`."""

    def __init__(self, count: int, sampling: Sampling, logits: Tensor) -> None:
        shape, k = (count, sampling.max_new_tokens), min(sampling.top_logprobs, logits.shape[1])
        self._mask = torch.zeros(shape, dtype=torch.bool, device=logits.device)
        self._drawn = {"tokens": torch.full(shape, sampling.pad, device=logits.device), "logp": logits.new_zeros(shape)}
        if k:
            self._drawn["top_tokens"] = torch.full((*shape, k), sampling.pad, device=logits.device)
            self._drawn["top_logp"] = logits.new_zeros(*shape, k)
        if sampling.entropy:
            self._drawn["entropy"] = logits.new_zeros(shape)

    def write(self, step: int, rows: Tensor, drawn: Drawn) -> None:
        """Take in a step of the rows in the batch."""
        self._mask[rows, step] = True
        for name, into in self._drawn.items():
            into[rows, step] = getattr(drawn, name)

    def responses(self, steps: int, unended: Tensor, version: int) -> Responses:
        """All of it, cut after `steps`; `unended` are the rows that ran into the limit."""
        ended = torch.ones(len(self._mask), dtype=torch.bool, device=self._mask.device)
        ended[unended] = False
        drawn = {name: leaf[:, :steps] for name, leaf in self._drawn.items()}
        versions = torch.full_like(drawn["tokens"], version)
        return Responses(mask=self._mask[:, :steps], ended=ended, version=versions, **drawn)


def _mixed(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    return torch.stack([weight * each for weight, each in zip(weights, logits, strict=True)]).sum(0)


def _closed_up(goes_on: Tensor, left: int) -> Tensor:
    """The rows that go on [left], those at the end moved into the places of those that have ended."""
    order = torch.arange(left, device=goes_on.device)
    places = (~goes_on[:left]).nonzero().squeeze(-1)
    order[places] = left + goes_on[left:].nonzero().squeeze(-1)
    return order


class _Decoder:
    """One variant in the middle of generation: its cache, and the logits of the next token of every row."""

    def __init__(
        self, variants: Variants, name: str, prompt: Tensor, mask: Tensor, of_row: Tensor, sampling: Sampling
    ) -> None:
        self._variants, self._name, self._temperature = variants, name, sampling.temperature
        self._padded = not bool(mask.all())
        columns = prompt.shape[1] + sampling.max_new_tokens - 1  # the last token is not read
        with variants.using(name) as network:
            self._cache = roomy_cache(network.config, columns)
            self._ready_masks = grouped(network) and all(isinstance(layer, RoomyLayer) for layer in self._cache.layers)
        position = positions(mask)
        logits = self._run(prompt, mask if self._padded else None, position)
        self._cache.batch_select_indices(of_row)
        self._visible = functional.pad(mask[of_row], (0, sampling.max_new_tokens - 1), value=True)
        self._position, self.logits = position[of_row, -1:], logits[of_row]
        self._columns = prompt.shape[1]

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per row, [N]."""
        self._columns += 1
        self._position = self._position + 1
        self.logits = self._run(tokens[:, None], self._mask(), self._position)

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        keep_rows(self._cache, rows)
        self._visible, self._position = self._visible[rows], self._position[rows]

    def _mask(self) -> Tensor | None:
        """Which columns of the cache may be seen; as the layers take it where the model need not make that itself."""
        if not self._padded:
            return None
        visible = self._visible[:, : self._columns]
        return visible[:, None, None] if self._ready_masks else visible

    def _run(self, tokens: Tensor, mask: Tensor | None, position: Tensor) -> Tensor:
        with self._variants.using(self._name) as network, grouping(network):
            out = network.base_model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=position,
                past_key_values=self._cache,
                use_cache=True,
            )
            return Head.of(network, self._temperature)(out.last_hidden_state[:, -1])

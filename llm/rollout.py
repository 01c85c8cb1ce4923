"""Sampling responses: one prefill per prompt, a key-value cache, finished rows leave the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from unirl.llm.scoring import positions
from unirl.llm.token_statistics import Head
from unirl.llm.variants import Variants

BLOCK = 128  # tokens that are drawn together at first; it divides most large vocabularies
KEEP_UNTIL = 0.75  # finished rows are dropped when at most this share of the rows in the batch still runs


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: softmax(logits / temperature), or the likeliest token where `greedy`."""

    max_new_tokens: int
    stop: tuple[int, ...]
    pad: int
    temperature: float = 1.0
    greedy: bool = False


@dataclass(frozen=True)
class Responses:
    """Sampled tokens exactly as drawn.

    `tokens`, `logp` [N, T]: right-padded, with the log-probability of each token under what it was drawn from (at the
    temperature). `mask` [N, T]: drawn tokens, the stop token included. `ended` [N]: a stop token was drawn; the
    others ran into the limit.
    """

    tokens: Tensor
    logp: Tensor
    mask: Tensor
    ended: Tensor

    @staticmethod
    def cat(parts: Sequence["Responses"]) -> "Responses":
        """The rows of all parts, padded to the longest."""
        longest = max(part.tokens.shape[1] for part in parts)

        def joined(name: str) -> Tensor:
            leaves = [getattr(part, name) for part in parts]
            return torch.cat([functional.pad(leaf, (0, longest - leaf.shape[1])) for leaf in leaves])

        ended = torch.cat([part.ended for part in parts])
        return Responses(joined("tokens"), joined("logp"), joined("mask"), ended)

    def rows(self, order: Tensor) -> "Responses":
        """The rows in another order."""
        return Responses(self.tokens[order], self.logp[order], self.mask[order], self.ended[order])


def generate(
    variants: Variants,
    mixture: Sequence[tuple[str, float]],
    prompt: Tensor,
    prompt_mask: Tensor,
    repeats: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> Responses:
    """`repeats` responses to each of G left-padded prompts [G, P], in order: row i answers prompt i // repeats.

    `mixture` lists (variant, weight): logits are the weighted sum of theirs, so that two variants with weights 1 - b
    and b draw from the geometric mixture policy^(1-b) * anchor^b. The same generator state gives the same tokens.
    """
    with torch.inference_mode():
        decoders = [_Decoder(variants, name, prompt, prompt_mask, repeats, sampling.temperature) for name, _ in mixture]
        weights = [weight for _, weight in mixture]
        found = _decode(decoders, weights, prompt.shape[0] * repeats, sampling, generator)
    return Responses(*(leaf.clone() for leaf in found))


def draw(logits: Tensor, greedy: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One token per row from p = softmax(logits) [N, V], and its log-probability; ([N], [N]).

    Two draws by inversion, of a block of tokens and then of a token in it, are an exact draw from p that costs two
    random numbers: a number for every token (Gumbel-max, or `torch.multinomial`) costs more than the model that made
    the logits where the vocabulary is large.
    """
    p = logits.softmax(-1)
    if greedy:
        token = logits.argmax(-1, keepdim=True)
    else:
        blocks = functional.pad(p, (0, -p.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
        block = _inverted(blocks.sum(-1), generator)
        inside = blocks[torch.arange(len(p), device=p.device), block.squeeze(1)]
        token = (block * BLOCK + _inverted(inside, generator)).clamp_(max=p.shape[1] - 1)
    return token.squeeze(1), p.gather(1, token).log().squeeze(1)


def _inverted(weights: Tensor, generator: torch.Generator) -> Tensor:
    """A column per row, drawn in proportion to the weights [N, K]: where the running sum first exceeds u times the sum.

    The clamp is for rows of NaN, which are nowhere in order: a policy that has diverged fails where it is measured.
    """
    sums = weights.cumsum(1, dtype=torch.float64)
    uniform = torch.rand(len(sums), 1, dtype=torch.float64, device=sums.device, generator=generator)
    return torch.searchsorted(sums, uniform * sums[:, -1:], right=True).clamp_(max=sums.shape[1] - 1)


def _decode(
    decoders: Sequence["_Decoder"], weights: Sequence[float], count: int, sampling: Sampling, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    device = decoders[0].logits.device
    shape = (count, sampling.max_new_tokens)
    tokens = torch.full(shape, sampling.pad, device=device)
    logps = torch.zeros(shape, dtype=decoders[0].logits.dtype, device=device)
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    stop = torch.tensor(sampling.stop, device=device)
    rows = torch.arange(count, device=device)  # the rows that are still in the batch
    running = torch.ones(count, dtype=torch.bool, device=device)  # of these, the ones that have not ended
    for step in range(sampling.max_new_tokens):
        logits = _mixed([decoder.logits for decoder in decoders], weights)
        token, logp = draw(logits, sampling.greedy, generator)
        token = token.where(running, sampling.pad)
        tokens[rows, step], logps[rows, step], mask[rows, step] = token, logp * running, running
        running = running & ~torch.isin(token, stop)
        left = int(running.sum())
        if left == 0:
            break
        if left <= KEEP_UNTIL * len(rows):
            keep = running.nonzero().squeeze(-1)
            rows, running, token = rows[keep], running[keep], token[keep]
            for decoder in decoders:
                decoder.keep(keep)
        if step + 1 < sampling.max_new_tokens:
            for decoder in decoders:
                decoder.advance(token)
    ended = torch.ones(count, dtype=torch.bool, device=device)
    ended[rows] = ~running
    return tokens[:, : step + 1], logps[:, : step + 1], mask[:, : step + 1], ended


def _mixed(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    return torch.stack([weight * each for weight, each in zip(weights, logits, strict=True)]).sum(0)


class _Decoder:
    """One variant in the middle of generation: its cache, and the logits of the next token of every row."""

    def __init__(
        self, variants: Variants, name: str, prompt: Tensor, prompt_mask: Tensor, repeats: int, temperature: float
    ) -> None:
        self._variants, self._name, self._temperature = variants, name, temperature
        with variants.using(name) as network:
            self._cache = DynamicCache(config=network.config)
        position = positions(prompt_mask)
        logits = self._run(prompt, prompt_mask, position)
        self._cache.batch_repeat_interleave(repeats)
        self._attention = prompt_mask.repeat_interleave(repeats, 0)
        self._position = position[:, -1:].repeat_interleave(repeats, 0)
        self.logits = logits.repeat_interleave(repeats, 0)

    def advance(self, tokens: Tensor) -> None:
        """Read one more token per row, [N]."""
        self._attention = functional.pad(self._attention, (0, 1), value=True)
        self._position = self._position + 1
        self.logits = self._run(tokens[:, None], self._attention, self._position)

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self._cache.batch_select_indices(rows)
        self._attention, self._position = self._attention[rows], self._position[rows]

    def _run(self, tokens: Tensor, attention: Tensor, position: Tensor) -> Tensor:
        with self._variants.using(self._name) as network:
            out = network.base_model(
                input_ids=tokens,
                attention_mask=attention,
                position_ids=position,
                past_key_values=self._cache,
                use_cache=True,
            )
            return Head.of(network, self._temperature)(out.last_hidden_state[:, -1])

"""Log-probabilities, entropies and likeliest tokens from hidden states, with logits for a chunk of rows at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unirl.errors import UserError
from unirl.llm.truncation import EVERY_TOKEN, RULED_OUT, Truncation, rule_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**22  # numbers in one chunk of logits: 16 MB in float32, which a processor's cache can hold


@dataclass(frozen=True)
class Head:
    """The output projection, at a temperature: logits = (W h + b) / temperature, in at least 32 bits.

    `truncation` is part of the distribution that log-probabilities and entropies are of; the logits are all of them.
    """

    weight: Tensor
    bias: Tensor | None
    temperature: float
    truncation: Truncation = EVERY_TOKEN

    @classmethod
    def of(cls, network: "PreTrainedModel", temperature: float, truncation: Truncation = EVERY_TOKEN) -> "Head":
        """The head of a transformers model."""
        layer = network.get_output_embeddings()
        return cls(layer.weight, layer.bias, temperature, truncation)

    def __call__(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits [M, V] of states [M, H]; `out` [M, V] may be used to hold them. Not differentiable."""
        logits = torch.mm(hidden, self.weight.T, out=out)
        if self.bias is not None:
            logits += self.bias
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if self.temperature == 1.0 else logits.div_(self.temperature)


def token_statistics(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    *,
    entropy: bool = False,
    anchors: Mapping[str, tuple[Tensor, Head]] | None = None,
    top: int | Tensor = 0,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> dict[str, Tensor]:
    """`logp` of the targets and, where asked, `entropy` and `kl.<anchor>` = KL(policy to anchor), all [M], in nats.

    `hidden` [M, H] are the states that the `targets` [M] are chosen from; `anchors` are (states [M, H], head) of frozen
    policies. With `top`, `top_logp` [M, k] are the log-probabilities of `top_token` [M, k]: of the k likeliest tokens,
    the likeliest first, where `top` is their number (at most the vocabulary), or of those found earlier, given as
    `top`. Differentiable in `hidden` and in the head, once. Logits exist for a chunk of rows at a time and are
    computed again in the backward pass. A chunk is `logits_at_once` numbers, but at least H rows: each adds to the
    gradient of the whole head, [V, H], which is memory and work for H rows of logits.

    Where the head truncates, all is said of the renormalised distribution over the set that its own logits give, the
    target always included (`unirl.llm.truncation.rule_out`), and gradients are those at a fixed set. `top_logp` of a
    token outside the set is minus infinity, and no gradient comes back from there, whatever the loss's slope is.
    Raises `UserError` for anchors then: outside the anchor's set the divergence is infinite.
    """
    anchors = anchors or {}
    if anchors and head.truncation.active:
        raise UserError(
            "an exact KL to an anchor is over the whole vocabulary; with domain.top_k, top_p or min_p estimate it (k3)"
        )
    statistics: dict[str, _Statistic] = {"logp": _LogProbabilities(targets[:, None])}
    if entropy:
        statistics["entropy"] = _Entropy()
    statistics |= {f"kl.{name}": _Divergence(*anchor) for name, anchor in anchors.items()}
    choices = top if isinstance(top, Tensor) else targets.new_empty(len(targets), min(top, head.weight.shape[0]))
    if choices.shape[1] > 0:
        statistics["top_logp"] = _LogProbabilities(choices) if choices is top else _Likeliest(choices)
    rows = max(logits_at_once // head.weight.shape[0], head.weight.shape[1])
    options = _Options(head, tuple(statistics.values()), targets, rows)
    values = dict(zip(statistics, _InChunks.apply(hidden, head.weight, head.bias, options), strict=True))
    found = {name: value if name == "top_logp" else value.squeeze(-1) for name, value in values.items()}
    return {**found, "top_token": choices} if "top_logp" in found else found


class _Chunk:
    """Logits z [m, V] of some rows, with log p and p = softmax(z) for those statistics that need them."""

    def __init__(self, rows: slice, logits: Tensor, spare: Tensor) -> None:
        self.rows, self.logits, self.spare = rows, logits, spare

    @cached_property
    def log_p(self) -> Tensor:
        """[m, V], in the spare memory."""
        return torch.log_softmax(self.logits, -1, out=self.spare)

    @cached_property
    def p(self) -> Tensor:
        """[m, V]."""
        return self.logits.softmax(-1)  # of ruled-out logits, `exp` takes ten times as long


class _Statistic(ABC):
    """Numbers per row, [M, k]. Their gradient in the logits is p times `factor`, and the loss's slopes at `tokens`."""

    size = 1  # k
    tokens: Tensor | None = None  # [M, k]

    @abstractmethod
    def of(self, chunk: _Chunk) -> Tensor:
        """The numbers of a chunk, [m, k]."""

    @abstractmethod
    def factor(self, chunk: _Chunk, slopes: Tensor, values: Tensor) -> Tensor:
        """What p is multiplied by, [m, 1] or [m, V], given the loss's slopes in the values that were found, [m, k]."""


class _LogProbabilities(_Statistic):
    r"""log p of k tokens v per row, [M, k]; minus infinity where a token is ruled out.

    .. math:: \nabla_z \sum_j g_j \log p_{v_j} = \sum_j g_j e_{v_j} - p \sum_j g_j
    """

    tokens: Tensor

    def __init__(self, tokens: Tensor) -> None:
        self.tokens, self.size = tokens, tokens.shape[1]

    def of(self, chunk: _Chunk) -> Tensor:
        found = chunk.log_p.gather(-1, self.tokens[chunk.rows])
        return found.masked_fill_(found < RULED_OUT / 2, -torch.inf)

    def factor(self, chunk: _Chunk, slopes: Tensor, values: Tensor) -> Tensor:
        return -slopes.sum(-1, keepdim=True)


class _Likeliest(_LogProbabilities):
    """The same of the k likeliest tokens, the likeliest first: written into `tokens` when they are found."""

    def of(self, chunk: _Chunk) -> Tensor:
        self.tokens[chunk.rows] = chunk.logits.topk(self.size).indices
        return super().of(chunk)


class _Entropy(_Statistic):
    r"""H, the entropy of p.

    .. math:: \nabla_z H = -p\,(\log p + H)
    """

    def of(self, chunk: _Chunk) -> Tensor:
        return -(chunk.p * chunk.log_p).sum(-1, keepdim=True)

    def factor(self, chunk: _Chunk, slopes: Tensor, values: Tensor) -> Tensor:
        return -slopes * (chunk.log_p + values)


class _Divergence(_Statistic):
    r"""KL(p, q) to an anchor, whose states and head these are.

    .. math:: \nabla_z \mathrm{KL} = p\,(\log p - \log q - \mathrm{KL})
    """

    def __init__(self, states: Tensor, head: Head) -> None:
        self.states, self.head = states, head

    def of(self, chunk: _Chunk) -> Tensor:
        return (chunk.p * (chunk.log_p - self._log_q(chunk))).sum(-1, keepdim=True)

    def factor(self, chunk: _Chunk, slopes: Tensor, values: Tensor) -> Tensor:
        return slopes * (chunk.log_p - self._log_q(chunk) - values)

    def _log_q(self, chunk: _Chunk) -> Tensor:
        return self.head(self.states[chunk.rows]).log_softmax(-1)


@dataclass(frozen=True)
class _Options:
    head: Head
    statistics: tuple[_Statistic, ...]
    targets: Tensor
    rows: int  # in a chunk


class _InChunks(torch.autograd.Function):
    """The statistics of all rows, [M, k] each, a chunk after the other; forward and backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, options: _Options) -> tuple[Tensor, ...]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        found = tuple(hidden.new_empty(len(hidden), each.size, dtype=exact) for each in options.statistics)
        least = hidden.new_empty(len(hidden), 1, dtype=exact) if options.head.truncation.active else None
        for chunk in _chunks(hidden, options):
            if least is not None:
                least[chunk.rows] = options.head.truncation.least(chunk.logits)
                rule_out(chunk.logits, least[chunk.rows], options.targets[chunk.rows])
            for values, statistic in zip(found, options.statistics, strict=True):
                values[chunk.rows] = statistic.of(chunk)
        ctx.save_for_backward(hidden, weight, bias, least, *found)
        ctx.options = options
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, least, *found = ctx.saved_tensors
        options, (_, of_weight, of_bias, *_) = ctx.options, ctx.needs_input_grad
        slopes = tuple(slope / options.head.temperature for slope in slopes)
        if least is not None:
            slopes = tuple(s.masked_fill(values.isneginf(), 0.0) for s, values in zip(slopes, found, strict=True))
        for_hidden = torch.empty_like(hidden)
        for_weight = torch.zeros_like(weight, dtype=found[0].dtype) if of_weight else None
        for_bias = torch.zeros_like(bias, dtype=found[0].dtype) if of_bias else None
        for chunk in _chunks(hidden, options):
            if least is not None:
                rule_out(chunk.logits, least[chunk.rows], options.targets[chunk.rows])
            gradient = _gradient(chunk, slopes, found, options.statistics).to(hidden.dtype)
            torch.mm(gradient, weight, out=for_hidden[chunk.rows])
            if for_weight is not None:
                _add_product(for_weight, gradient.T, hidden[chunk.rows])
            if for_bias is not None:
                for_bias += gradient.sum(0)
        return for_hidden, for_weight, for_bias, None


def _chunks(hidden: Tensor, options: _Options) -> Iterator[_Chunk]:
    """The rows, chunk by chunk. The memory of logits and spare is used again for the next chunk."""
    shape = (min(options.rows, len(hidden)), options.head.weight.shape[0])
    product = hidden.new_empty(shape)
    spare = hidden.new_empty(shape, dtype=torch.promote_types(hidden.dtype, torch.float32))
    for start in range(0, len(hidden), options.rows):
        rows = slice(start, start + options.rows)
        count = len(hidden[rows])
        yield _Chunk(rows, options.head(hidden[rows], out=product[:count]), spare[:count])


def _gradient(
    chunk: _Chunk, slopes: Sequence[Tensor], found: Sequence[Tensor], statistics: Sequence[_Statistic]
) -> Tensor:
    """The loss's gradient in the logits of a chunk, [m, V], given its slopes in what was found."""
    rows = chunk.rows
    factor = chunk.logits.new_zeros(())
    for statistic, slope, values in zip(statistics, slopes, found, strict=True):
        factor = factor + statistic.factor(chunk, slope[rows], values[rows])
    gradient = torch.softmax(chunk.logits, -1, out=chunk.spare).mul_(factor)  # nobody reads log p any more
    for statistic, slope in zip(statistics, slopes, strict=True):
        if statistic.tokens is not None:
            gradient.scatter_add_(-1, statistic.tokens[rows], slope[rows])
    return gradient


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a total that may have more bits: half precision cannot sum up thousands of terms."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right

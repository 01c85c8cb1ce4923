"""Log-probabilities and entropies of tokens from hidden states, with logits for a chunk of rows at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unirl.errors import UserError
from unirl.llm.truncation import EVERY_TOKEN, Truncation, rule_out

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
    logits_at_once: int = LOGITS_AT_ONCE,
) -> dict[str, Tensor]:
    """`logp` of the targets and, where asked, `entropy` and `kl.<anchor>` = KL(policy to anchor), all [M], in nats.

    `hidden` [M, H] are the states that the `targets` [M] are chosen from; `anchors` are (states [M, H], head) of frozen
    policies. Differentiable in `hidden` and in the head, once. Logits exist for a chunk of rows at a time and are
    computed again in the backward pass. A chunk is `logits_at_once` numbers, but at least H rows: each adds to the
    gradient of the whole head, [V, H], which is memory and work for H rows of logits.

    Where the head truncates, all is said of the renormalised distribution over the set that its own logits give, the
    target always included (`unirl.llm.truncation.rule_out`), and gradients are those at a fixed set. Raises `UserError`
    for anchors then: outside the anchor's set the divergence is infinite.
    """
    anchors = anchors or {}
    if anchors and head.truncation.active:
        raise UserError(
            "an exact KL to an anchor is over the whole vocabulary; with domain.top_k, top_p or min_p estimate it (k3)"
        )
    rows = max(logits_at_once // head.weight.shape[0], head.weight.shape[1])
    options = _Options(head, entropy, tuple(anchors.values()), rows)
    found = _Statistics.apply(hidden, head.weight, head.bias, targets, options)
    names = ["logp", *(["entropy"] if entropy else []), *(f"kl.{name}" for name in anchors)]
    return dict(zip(names, found, strict=True))


@dataclass(frozen=True)
class _Options:
    head: Head
    entropy: bool
    anchors: tuple[tuple[Tensor, Head], ...]
    rows: int  # in a chunk


class _Statistics(torch.autograd.Function):
    r"""Of logits z with p = softmax(z): log p_y, then H, the entropy of p, if asked for, then KL(p, q) to every anchor.

    .. math::

        \nabla_z \log p_y = e_y - p, \qquad \nabla_z H = -p\,(\log p + H), \qquad
        \nabla_z \mathrm{KL} = p\,(\log p - \log q - \mathrm{KL})
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: _Options
    ) -> tuple[Tensor, ...]:
        count = 1 + options.entropy + len(options.anchors)
        exact = torch.promote_types(hidden.dtype, torch.float32)
        found = tuple(torch.empty(len(hidden), dtype=exact, device=hidden.device) for _ in range(count))
        least = hidden.new_empty(len(hidden), 1, dtype=exact) if options.head.truncation.active else None
        for some, logits, spare in _chunks(hidden, options):
            if least is not None:
                least[some] = options.head.truncation.least(logits)
                rule_out(logits, least[some], targets[some])
            log_p = torch.log_softmax(logits, -1, out=spare)
            found[0][some] = log_p.gather(-1, targets[some, None]).squeeze(-1)
            if count > 1:
                p = logits.softmax(-1)  # of ruled-out logits, `exp` takes ten times as long
            if options.entropy:
                found[1][some] = -(p * log_p).sum(-1)
            for kl, (states, anchor) in zip(found[1 + options.entropy :], options.anchors, strict=True):
                kl[some] = (p * (log_p - anchor(states[some]).log_softmax(-1))).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, least, *found)
        ctx.options = options
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, least, *found = ctx.saved_tensors
        options, (_, of_weight, of_bias, *_) = ctx.options, ctx.needs_input_grad
        slopes = tuple(slope / options.head.temperature for slope in slopes)
        for_hidden = torch.empty_like(hidden)
        for_weight = torch.zeros_like(weight, dtype=found[0].dtype) if of_weight else None
        for_bias = torch.zeros_like(bias, dtype=found[0].dtype) if of_bias else None
        for some, logits, spare in _chunks(hidden, options):
            if least is not None:
                rule_out(logits, least[some], targets[some])
            factor = _factor_of_p(logits, some, slopes, found, options)
            gradient = torch.softmax(logits, -1, out=spare).mul_(factor)
            gradient.scatter_add_(-1, targets[some, None], slopes[0][some, None])
            gradient = gradient.to(hidden.dtype)
            torch.mm(gradient, weight, out=for_hidden[some])
            if for_weight is not None:
                _add_product(for_weight, gradient.T, hidden[some])
            if for_bias is not None:
                for_bias += gradient.sum(0)
        return for_hidden, for_weight, for_bias, None, None


def _chunks(hidden: Tensor, options: _Options) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Which rows, their logits, and a spare tensor like these. The memory of both is used again for the next chunk."""
    shape = (min(options.rows, len(hidden)), options.head.weight.shape[0])
    product = hidden.new_empty(shape)
    spare = torch.empty(shape, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    for start in range(0, len(hidden), options.rows):
        some = slice(start, start + options.rows)
        count = len(hidden[some])
        yield some, options.head(hidden[some], out=product[:count]), spare[:count]


def _factor_of_p(
    logits: Tensor, some: slice, slopes: Sequence[Tensor], found: Sequence[Tensor], options: _Options
) -> Tensor:
    """What p is multiplied by in the gradient with respect to the logits, given the loss's slopes in what was found."""
    factor = -slopes[0][some, None]
    if len(found) == 1:
        return factor
    log_p = logits.log_softmax(-1)
    if options.entropy:
        factor = factor - slopes[1][some, None] * (log_p + found[1][some, None])
    first = 1 + options.entropy
    for (states, anchor), slope, kl in zip(options.anchors, slopes[first:], found[first:], strict=True):
        log_q = anchor(states[some]).log_softmax(-1)
        factor = factor + slope[some, None] * (log_p - log_q - kl[some, None])
    return factor


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a total that may have more bits: half precision cannot sum up thousands of terms."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right

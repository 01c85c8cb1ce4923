"""Log-probabilities, entropies, likeliest tokens and state values of recorded responses, never a [N, T, V] tensor."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.llm.states import States, states
from unirl.llm.token_statistics import LOGITS_AT_ONCE, Head, token_statistics
from unirl.llm.truncation import EVERY_TOKEN, Truncation
from unirl.llm.variants import CRITIC, POLICY, Variants

PLAIN = frozenset({"logp", "old_logp", "entropy", "top_token", "top_logp"})
VALUES = frozenset({"value", "next_value", "value_pred", "value_pred_std"})
ANCHORED = frozenset({"anchor_logp", "anchor_top_logp", "anchor_kl"})


@dataclass(frozen=True)
class Scorer:
    """Computes the fields that `Domain.score` is asked for.

    `packed`: whether rows go through the model without padding, shared prompts once (see `unirl.llm.states.packable`).
    `truncation`: what log-probabilities are of, as in sampling.
    `logits_at_once` bounds the numbers in one chunk of logits (see `unirl.llm.token_statistics`).
    `top_choices`: how many likeliest tokens `top_token` holds, at most the vocabulary.
    """

    variants: Variants
    value_head: nn.Linear | None
    temperature: float = 1.0
    packed: bool = True
    logits_at_once: int = LOGITS_AT_ONCE
    truncation: Truncation = EVERY_TOKEN
    top_choices: int = 0

    def check(self, need: Collection[str]) -> None:
        """Raise `UserError` for a field that the language domain does not offer, or an anchor that is not there."""
        if need_any(need, {"anchor_top_logp"}) and self.truncation.active:
            raise UserError(
                "a KL over the likeliest tokens is infinite where an anchor rules one of them out; "
                "with domain.top_k, top_p or min_p estimate it (k3)"
            )
        for name in need:
            field, _, anchor = name.partition(".")
            if field in VALUES and self.value_head is None:
                raise UserError(f"`{field}` needs a critic: the method names none (see: unirl parts critic)")
            if field == "value_pred_std" and self.value_head is not None and self.value_head.out_features == 1:
                raise UserError("`value_pred_std` needs a critic that asks for a spread, such as gaussian_v")
            if field == "top_token" and self.top_choices == 0:
                raise UserError(f"`{name}` needs a number of choices: no part asks for any (Requirements.top_choices)")
            if field not in PLAIN | VALUES | ANCHORED:
                raise UserError(f"the method needs `{name}`, which the language domain does not offer (control only)")
            if field in ANCHORED and anchor not in self.variants.anchors:
                raise UserError(f"the method needs `{name}`, but names no anchor '{anchor}' under `anchors`")

    def __call__(self, batch: Batch, need: Collection[str]) -> dict[str, Any]:
        """The needed fields, [N, T] or [N, T, k] each, 0 where the mask is; differentiable where gradients are on."""
        made: dict[str, Any] = {}
        found = self._policy_states(batch, need)
        if found is not None and need_any(need, PLAIN | {"anchor_kl"}):
            made.update(self._log_probabilities(batch, need, found))
        if need_any(need, VALUES):
            made.update(self._values(batch, need, found))
        if "top_token" in made:  # it is of these that anchors are asked
            batch = batch.replace(top_token=made["top_token"])
        for anchor in sorted({*named(need, "anchor_logp"), *named(need, "anchor_top_logp")}):
            for field, value in self._of_anchor(batch, need, anchor).items():
                made.setdefault(field, {})[anchor] = value
        return made

    def _policy_states(self, batch: Batch, need: Collection[str]) -> States | None:
        """Hidden states of the policy; without gradients where only a head on top of them is trained."""
        differentiable = need_any(need, {"logp", "entropy", "top_logp", "anchor_kl"})
        shared = not self._critic_is_separate
        if not differentiable and not need_any(need, {"old_logp", "top_token"} | (VALUES if shared else set())):
            return None
        with self.variants.using(POLICY) as network, torch.set_grad_enabled(torch.is_grad_enabled() and differentiable):
            return states(network, batch, self.packed)

    def _log_probabilities(self, batch: Batch, need: Collection[str], policy: States) -> dict[str, Any]:
        mask = batch.mask
        with self.variants.using(POLICY) as network:
            head = self._head(network)
        others = {name: self._anchor_states(batch, name) for name in named(need, "anchor_kl")}
        found = token_statistics(
            policy.of_decisions(mask),
            batch.inputs["token"][mask],
            head,
            entropy="entropy" in need,
            anchors=others,
            top=self._top(batch, need),
            logits_at_once=self.logits_at_once,
        )
        placed = {name: _place(value, mask) for name, value in found.items()}
        asked = PLAIN & set(need) & set(placed)
        made: dict[str, Any] = {name: placed[name] for name in sorted(asked)}
        if "old_logp" in need:
            made["old_logp"] = placed["logp"].detach()
        if others:
            made["anchor_kl"] = {name: placed[f"kl.{name}"] for name in others}
        return made

    def _top(self, batch: Batch, need: Collection[str]) -> int | Tensor:
        """How many likeliest tokens to find, or those [M, k] that the batch has, where they are asked about."""
        if "top_token" in need:
            return self.top_choices
        if "top_logp" in need:
            found: Tensor = batch.top_token[batch.mask]
            return found
        return 0

    def _values(self, batch: Batch, need: Collection[str], found: States | None) -> dict[str, Tensor]:
        assert self.value_head is not None
        if self._critic_is_separate:
            with_gradient = torch.is_grad_enabled() and need_any(need, {"value_pred", "value_pred_std"})
            with self.variants.using(CRITIC) as network, torch.set_grad_enabled(with_gradient):
                found = states(network, batch, self.packed)
        assert found is not None
        values = self.value_head(found.hidden)
        outputs = values.to(torch.promote_types(values.dtype, torch.float32))[found.at]
        of_states, zero = outputs[..., 0], outputs.new_zeros(())
        made = {}
        if need_any(need, {"value_pred", "value"}):
            predicted = torch.where(batch.mask, of_states[:, :-1], zero)
            made.update({"value_pred": predicted} if "value_pred" in need else {})
            made.update({"value": predicted.detach()} if "value" in need else {})
        if "value_pred_std" in need:
            made["value_pred_std"] = torch.where(batch.mask, F.softplus(outputs[:, :-1, 1]), zero)
        if "next_value" in need:
            goes_on = batch.mask & ~batch.terminated
            made["next_value"] = torch.where(goes_on, of_states[:, 1:].detach(), zero)
        return made

    @torch.no_grad()
    def _of_anchor(self, batch: Batch, need: Collection[str], anchor: str) -> dict[str, Tensor]:
        """What is needed of an anchor's log-probabilities, from one pass."""
        mask = batch.mask
        hidden, head = self._anchor_states(batch, anchor)
        top = batch.top_token[mask] if f"anchor_top_logp.{anchor}" in need else 0
        found = token_statistics(hidden, batch.inputs["token"][mask], head, top=top, logits_at_once=self.logits_at_once)
        made = {"anchor_logp": found["logp"]} if f"anchor_logp.{anchor}" in need else {}
        if "top_logp" in found:
            made["anchor_top_logp"] = found["top_logp"]
        return {field: _place(value, mask) for field, value in made.items()}

    @torch.no_grad()
    def _anchor_states(self, batch: Batch, anchor: str) -> tuple[Tensor, Head]:
        with self.variants.using(anchor) as network:
            return states(network, batch, self.packed).of_decisions(batch.mask), self._head(network)

    def _head(self, network: PreTrainedModel) -> Head:
        return Head.of(network, self.temperature, self.truncation)

    @property
    def _critic_is_separate(self) -> bool:
        return self.variants.has_critic


def _place(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the masked decisions, [M] or [M, k], back in their places, [N, T] or [N, T, k]."""
    of_decision = values.shape[1:]
    where = mask.reshape(*mask.shape, *(1 for _ in of_decision))
    return values.new_zeros(*mask.shape, *of_decision).masked_scatter(where, values)


def need_any(need: Collection[str], fields: Collection[str]) -> bool:
    """Whether any of the fields, or an entry of one, is needed."""
    return any(name.partition(".")[0] in fields for name in need)


def named(need: Collection[str], field: str) -> list[str]:
    """The entries of a nested field that are needed, sorted."""
    return sorted(name.partition(".")[2] for name in need if name.startswith(f"{field}."))

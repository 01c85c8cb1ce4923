"""The one record that flows from a domain through the parts to the update.

Rows are trajectories, responses or segments (N); columns are decisions (T, right-padded). See `docs/design.md`
for the meaning of every field; `FIELDS` below is the same table for the machine.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

DECISION = "decision"  # [N, T]: one number per decision
ACTION = "action"  # [N, T, ...]: one vector per decision
ROW = "row"  # [N]
HEADS = "heads"  # [heads, N, T] or [N, T]
NESTED = "nested"  # name -> tensors whose first dimension is N
PAIRS = "pairs"  # [P, ...]: indexed by pair, not by row
WHOLE = "whole"  # one value for the batch

FIELDS: dict[str, tuple[str, str]] = {  # name -> (shape, who usually fills it)
    "mask": (DECISION, "the domain, when it samples or loads"),
    "logp": (DECISION, "domain.score"),
    "old_logp": (DECISION, "domain.score, once per batch before the update"),
    "behavior_logp": (DECISION, "whatever sampled the decision: the roll-out or the dataset"),
    "anchor_logp": (NESTED, "domain.score, from the frozen policies that the method names under `anchors`"),
    "anchor_kl": (NESTED, "domain.score, where KL(policy || anchor) has a closed form"),
    "kl_from_anchor": (NESTED, "domain.score, where KL(anchor || policy) has a closed form"),
    "top_token": (ACTION, "domain.score, once per batch before the update: the policy's likeliest choices"),
    "top_logp": (ACTION, "domain.score: log-prob of each of these choices"),
    "anchor_top_logp": (NESTED, "domain.score, from the frozen policies: log-prob of each of these choices"),
    "entropy": (DECISION, "domain.score"),
    "sample_logp": (DECISION, "domain.score: log-prob of a fresh re-parameterised action"),
    "sample_anchor_logp": (NESTED, "domain.score: an anchor's log-prob of that fresh action"),
    "sample_logp_parts": (ACTION, "domain.score: log-density of each dimension of that fresh action"),
    "sample_anchor_logp_parts": (NESTED, "domain.score: an anchor's, of each dimension of that fresh action"),
    "router": (ACTION, "domain.score: how likely each expert of a mixture is to act"),
    "expert_q": (ACTION, "domain.score: critics' values of a fresh action of each expert"),
    "expert_logp": (ACTION, "domain.score: log-prob of that action under the mixture, its weights constant"),
    "expert_own_logp": (ACTION, "domain.score: log-prob of that action under its expert"),
    "policy_action": (ACTION, "domain.score: the policy's own action, differentiable"),
    "reference_action": (ACTION, "the dataset, or a part that looks one up"),
    "next_online_q": (HEADS, "domain.score: the critic in training's value of the action behind `next_q`"),
    "next_policy_action": (ACTION, "domain.score: the action at the next state behind `next_q`"),
    "next_reference_action": (ACTION, "the dataset: the action that was recorded next"),
    "q": (HEADS, "domain.score: critic value of the policy's own action"),
    "q_first": (DECISION, "domain.score: q of the first critic alone, which costs less than all of them"),
    "q_std": (HEADS, "domain.score, with q, where critics predict a spread"),
    "q_data": (HEADS, "domain.score: critic value of the recorded action"),
    "q_data_std": (HEADS, "domain.score, with q_data, where critics predict a spread"),
    "target_q_data": (HEADS, "domain.score: target critic's value of the recorded action"),
    "next_q": (HEADS, "domain.score: target critic's value of the policy's action at the next state"),
    "next_target_q_pred": (HEADS, "domain.score: next_q, differentiable through the policy's action"),
    "next_q_std": (HEADS, "domain.score, with next_q, where critics predict a spread"),
    "next_logp": (DECISION, "domain.score, with next_q"),
    "value_pred": (HEADS, "domain.score: state value, differentiable"),
    "value_pred_std": (HEADS, "domain.score: predicted spread of what the state value is regressed on"),
    "next_value_pred": (HEADS, "domain.score: value of the next state, differentiable"),
    "value": (HEADS, "domain.score, once per batch before the update"),
    "next_value": (HEADS, "domain.score, once per batch before the update"),
    "target_value": (HEADS, "domain.score: the target copy's state value, once per batch before the update"),
    "next_target_value": (HEADS, "domain.score: the target copy's value of the next state, likewise"),
    "estimate": (NESTED, "domain.score, from the auxiliary models that the method names, once per batch"),
    "model": (NESTED, "domain.score, from the auxiliary models that the method names, differentiable"),
    "inputs": (NESTED, "the domain: one entry per decision, [N, T, ...]"),
    "context": (NESTED, "the domain: what precedes the first decision, [N, P, ...], left-padded"),
    "reward": (DECISION, "the domain's roll-out, the dataset, or a reward part"),
    "rewards": (NESTED, "the domain's verifiers or environment"),
    "score": (ROW, "the domain's verifier or return, or a reward part"),
    "terminated": (DECISION, "the domain's roll-out or the dataset"),
    "truncated": (DECISION, "the domain's roll-out or the dataset"),
    "advantage": (DECISION, "an advantage part"),
    "returns": (DECISION, "an advantage part (gae, mc)"),
    "cost_advantage": (DECISION, "advantage part gae_with_cost"),
    "cost_returns": (DECISION, "advantage part gae_with_cost"),
    "episode_cost": (WHOLE, "advantage part gae_with_cost: what an episode costs on the average"),
    "episode_length": (WHOLE, "advantage part gae_with_cost: decisions in an episode on the average"),
    "weight": (DECISION, "a selection part"),
    "divisor": (WHOLE, "a selection part, or the reduction"),
    "unit_divisor": (WHOLE, "the method: rows or pairs in the whole minibatch, for row- and pair-level losses"),
    "group": (ROW, "the domain's roll-out, with group_size > 1"),
    "prompt_id": (ROW, "the domain's roll-out"),
    "turn": (DECISION, "a multi-turn domain"),
    "segment": (DECISION, "a segmenting part"),
    "anchor_state": (DECISION, "a multi-turn domain"),
    "parent": (ROW, "a branching roll-out"),
    "branch_at": (ROW, "a branching roll-out"),
    "source": (ROW, "the batch's source"),
    "version": (DECISION, "the roll-out engine"),
    "pairs": (PAIRS, "a preference dataset, or a pairing part"),
    "pair_label": (PAIRS, "a preference dataset, an annotator, or a pairing part"),
    "progress": (WHOLE, "the trainer"),
    "temperature": (WHOLE, "the method: the current coefficient of its entropy regularizer"),
}

# Values of `source`: whose decisions a row holds. Beside a mixture, an expert's rows are the recorded ones.
POLICY, OPPONENT, RECORDED, MIXTURE = range(4)

_NOT_ROWS = (PAIRS, WHOLE)
Nested = dict[str, Tensor]
Rows = dict[str, Any]  # a tensor or `Nested` for each field


class MissingFieldError(AttributeError):
    """A part asked for a field that nobody filled."""

    def __init__(self, field: str, part: str = "") -> None:
        self.field, self.part = field, part
        wanted = f"{part} needs" if part else "the batch has no"
        super().__init__(f"{wanted} `{field}`; usually filled by {FIELDS[field.split('.')[0]][1]}")

    def wanted_by(self, part: str) -> "MissingFieldError":
        """The same error, naming the part that asked first."""
        return MissingFieldError(self.field, self.part or part)


class Batch:
    """A typed record of rows: fields read as attributes, `replace` gives a new one; what is read is not to be changed.

    Head-first fields ([heads, N, T]) are stored row-first, so that indexing, `cat` and `to` act on rows alike;
    `pairs`, `pair_label` and whole-batch scalars lie beside the rows. Raises `MissingFieldError` for an absent
    field and `ValueError` for an unknown name or rows that disagree in number.
    """

    __slots__ = ("_beside", "_count", "_rows")

    def __init__(self, **values: Any) -> None:
        self._rows: Rows = {}
        self._beside: dict[str, Any] = {}
        for name, value in values.items():
            shape = FIELDS.get(name)
            if shape is None:
                raise ValueError(f"unknown field '{name}'; the fields of a batch are listed in docs/design.md")
            if value is None:
                continue
            if shape[0] in _NOT_ROWS:
                self._beside[name] = value
            else:
                self._rows[name] = _row_first(shape[0], value)
        self._count = _row_count(self._rows)
        for name, value in self._rows.items():
            self._check(name, value)

    @classmethod
    def _of(cls, rows: Rows, beside: dict[str, Any], count: int) -> "Batch":
        made = object.__new__(cls)
        made._rows, made._beside, made._count = rows, beside, count
        return made

    def _check(self, name: str, value: Any) -> None:
        for leaf in value.values() if isinstance(value, dict) else (value,):
            if leaf.shape[0] != self._count:
                raise ValueError(f"field '{name}' has {leaf.shape[0]} rows, the batch has {self._count}")

    def __getattr__(self, name: str) -> Any:
        shape = FIELDS.get(name)
        if shape is None:
            raise AttributeError(name)
        if shape[0] in _NOT_ROWS:
            if name not in self._beside:
                raise MissingFieldError(name)
            return self._beside[name]
        value = self._rows.get(name)
        if value is None:
            raise MissingFieldError(name)
        if shape[0] == HEADS and value.dim() == 3:
            return value.movedim(1, 0)
        if shape[0] == NESTED and name not in ("inputs", "context"):
            return Anchors(name, value)
        return value

    def __contains__(self, name: str) -> bool:
        head, _, tail = name.partition(".")
        if head in self._beside:
            return True
        value = self._rows.get(head)
        return value is not None and (not tail or tail in value)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        """Names of the fields that are present."""
        yield from self._rows
        yield from self._beside

    def __repr__(self) -> str:
        return f"Batch({len(self)} rows: {', '.join(self)})"

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or `default` where it is absent. `"anchor_logp.ref"` reads inside a nested field."""
        head, _, tail = name.partition(".")
        if name not in self:
            return default
        value = getattr(self, head)
        return value[tail] if tail else value

    def replace(self, **values: Any) -> "Batch":
        """A batch with these fields set; nested fields are merged name by name; `None` removes a field."""
        rows, beside = dict(self._rows), dict(self._beside)
        for name, value in values.items():
            if name not in FIELDS:
                raise ValueError(f"unknown field '{name}'; the fields of a batch are listed in docs/design.md")
            kind = FIELDS[name][0]
            if value is None:
                (beside if kind in _NOT_ROWS else rows).pop(name, None)
            elif kind in _NOT_ROWS:
                beside[name] = value
            else:
                value = _row_first(kind, value)
                self._check(name, value)
                rows[name] = {**rows.get(name, {}), **value} if kind == NESTED else value
        return Batch._of(rows, beside, self._count)

    def __getitem__(self, rows: Any) -> "Batch":
        """The chosen rows (slice, index or boolean tensor). Pairs whose two rows are kept are kept and re-numbered."""
        if isinstance(rows, slice) and "pairs" not in self._beside:
            count = len(range(*rows.indices(self._count)))
            return self._each(lambda leaf: leaf[rows], dict(self._beside), count)
        chosen = torch.arange(len(self), device=self.device)[rows].reshape(-1)
        beside = dict(self._beside)
        if "pairs" in beside:
            position = torch.full((len(self),), -1, dtype=torch.long, device=self.device)
            position[chosen] = torch.arange(len(chosen), device=self.device)
            pairs = position[beside["pairs"]]
            kept = (pairs >= 0).all(-1)
            beside["pairs"] = pairs[kept]
            if "pair_label" in beside:
                beside["pair_label"] = beside["pair_label"][kept]
        return self._each(lambda leaf: leaf.index_select(0, chosen), beside, len(chosen))

    def of_pairs(self, which: Tensor) -> "Batch":
        """The chosen pairs (indices into `pairs`) with just the rows they compare."""
        pairs = self.pairs[which]
        rows, inverse = torch.unique(pairs, return_inverse=True)
        beside = dict(self._beside, pairs=inverse)
        if "pair_label" in beside:
            beside["pair_label"] = beside["pair_label"][which]
        return self._each(lambda leaf: leaf.index_select(0, rows), beside, len(rows))

    def _each(self, change: Callable[[Tensor], Tensor], beside: dict[str, Any], count: int) -> "Batch":
        """The batch with every tensor of its rows changed."""
        return Batch._of(each_leaf(self._rows, change), beside, count)

    def decisions(self) -> "Batch":
        """Every masked decision as a row of its own, [M, 1]; row fields are repeated. Pairs do not survive."""
        mask = self.mask
        if mask.shape[1] == 1 and "pairs" not in self and bool(mask.all()):
            return self
        row = torch.arange(len(self), device=mask.device)[:, None].expand_as(mask)[mask]
        column = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)[mask]

        def pick(leaf: Tensor, decision: bool) -> Tensor:
            return leaf[row, column].unsqueeze(1) if decision else leaf[row]

        picked: dict[str, Any] = {}
        for name, value in self._rows.items():
            shape = FIELDS[name][0]
            if isinstance(value, dict):
                picked[name] = {k: pick(v, name != "context" and v.dim() >= 2) for k, v in value.items()}
            elif shape == HEADS and value.dim() == 3:
                picked[name] = value[row, :, column].unsqueeze(-1).movedim(1, 0)
            else:
                picked[name] = pick(value, shape != ROW)
        beside = {k: v for k, v in self._beside.items() if FIELDS[k][0] == WHOLE}
        return Batch(**picked, **beside)

    @staticmethod
    def cat(batches: Sequence["Batch"]) -> "Batch":
        """Rows of all batches, padded to the longest; only what all of them have; pairs re-numbered."""
        decisions = max(b._rows["mask"].shape[1] for b in batches)
        context = max(_context_width(b._rows) for b in batches)
        common = set.intersection(*(set(b) for b in batches))
        names = sorted(name for name in common if name not in batches[0]._beside)
        padded = [_padded({name: b._rows[name] for name in names}, decisions, context) for b in batches]
        rows: Rows = {name: _joined([each[name] for each in padded]) for name in names}
        beside = {k: v for k, v in batches[0]._beside.items() if k in common and FIELDS[k][0] == WHOLE}
        if "pairs" in common:
            starts = torch.tensor([0] + [len(b) for b in batches[:-1]]).cumsum(0)
            beside["pairs"] = torch.cat([b.pairs + int(s) for b, s in zip(batches, starts, strict=True)])
        if "pair_label" in common:
            beside["pair_label"] = torch.cat([b.pair_label for b in batches])
        return Batch._of(rows, beside, sum(len(b) for b in batches))

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        beside = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self._beside.items()}
        return self._each(lambda leaf: leaf.to(device), beside, self._count)

    def detach(self) -> "Batch":
        """The same batch without gradients."""
        return self._each(Tensor.detach, dict(self._beside), self._count)

    def fields(self) -> dict[str, Any]:
        """Every field that is present, with plain dicts for nested ones: `Batch(**batch.fields())` is the batch."""
        values = {name: getattr(self, name) for name in self}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    def to_tensordict(self) -> TensorDict:
        """The row fields as a `TensorDict` (head-first fields row-first), for its storage and tools."""
        return TensorDict(self._rows, [self._count])

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        first = next(iter(self._rows.values()))
        leaf: Tensor = next(iter(first.values())) if isinstance(first, dict) else first
        return leaf.device


class Anchors(Mapping[str, Tensor]):
    """Named tensors of a nested field; a missing name raises `MissingFieldError` as a missing field does."""

    def __init__(self, field: str, values: Nested) -> None:
        self._field, self._values = field, values

    def __getitem__(self, name: str) -> Tensor:
        value = self._values.get(name)
        if value is None:
            raise MissingFieldError(f"{self._field}.{name}")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _row_first(shape: str, value: Any) -> Any:
    """How a field is stored: rows first, nested fields as plain dicts."""
    if shape == HEADS and value.dim() == 3:
        return value.movedim(0, 1)
    return dict(value) if isinstance(value, Mapping) else value


def _row_count(rows: Rows) -> int:
    for value in rows.values():
        for leaf in value.values() if isinstance(value, dict) else (value,):
            return int(leaf.shape[0])
    return 0


def each_leaf(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    """Rows with every tensor changed."""
    return {k: each_leaf(v, change) if isinstance(v, dict) else change(v) for k, v in rows.items()}


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        shared = [name for name in values[0] if all(name in value for value in values)]
        return {name: torch.cat([value[name] for value in values]) for name in shared}
    return torch.cat(values)


def _padded(rows: Rows, decisions: int, context: int) -> Rows:
    """Pad the decision dimension on the right and the context on the left, with zeros."""
    padded = dict(rows)
    for name, value in rows.items():
        shape = FIELDS[name][0]
        if isinstance(value, dict):
            left = name == "context"
            padded[name] = {k: _pad(v, 1, context if left else decisions, left) for k, v in value.items()}
        elif shape != ROW:
            padded[name] = _pad(value, 2 if shape == HEADS and value.dim() == 3 else 1, decisions, left=False)
    return padded


def _pad(leaf: Tensor, dim: int, length: int, left: bool) -> Tensor:
    if leaf.dim() <= dim or leaf.shape[dim] == length:
        return leaf
    gap = leaf.new_zeros([*leaf.shape[:dim], length - leaf.shape[dim], *leaf.shape[dim + 1 :]])
    return torch.cat([gap, leaf] if left else [leaf, gap], dim)


def _context_width(rows: Rows) -> int:
    return max((v.shape[1] for v in rows.get("context", {}).values() if v.dim() > 1), default=0)

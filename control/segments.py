"""Preference data for control: segments of behaviour, paired at random and labelled by an annotator."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unirl.batch import Batch
from unirl.control.sections import checked
from unirl.errors import UserError, unknown
from unirl.memory.pairs import PairDataset
from unirl.registry import make

if TYPE_CHECKING:
    from unirl.control.domain import ControlDomain

ROLLOUT, DATA = "rollout", "data"
_EPISODES_AT_A_TIME = 32
_DECISION_FIELDS = ("mask", "behavior_logp", "reward", "terminated", "truncated", "reference_action")


@dataclass(frozen=True)
class PreferenceOptions:
    """What a task's `preferences` may say.

    `segments` of at most `length` decisions, `origin` "rollout" (cut episodes of the untrained policy) or "data" (drawn
    from the task's dataset); the YAML key is `from`. `pairs`: how many comparisons (None: one per segment).
    `group_size`: episodes that share a reset state. `annotator`: name and hyper-parameters of the part that labels.
    """

    segments: int = 512
    length: int = 64
    origin: str = ROLLOUT
    pairs: int | None = None
    group_size: int = 1
    annotator: Mapping[str, Any] = field(default_factory=lambda: {"name": "by_return"})

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> "PreferenceOptions":
        """Read `task.preferences`; raises `UserError` for unknown keys, other types and impossible values."""
        given = {("origin" if key == "from" else key): value for key, value in (options or {}).items()}
        known = [entry.name for entry in fields(cls)]
        for key in given:
            if key not in known:
                raise unknown("key of task.preferences", key, ["from" if name == "origin" else name for name in known])
        made = checked(cls, given, "task.preferences")
        if made.origin not in (ROLLOUT, DATA):
            raise unknown("task.preferences.from", str(made.origin), [ROLLOUT, DATA])
        if made.segments < 2 or made.length < 1 or made.group_size < 1:
            raise UserError("task.preferences needs at least 2 segments, a length and a group_size of at least 1")
        return made


def preference_pairs(domain: "ControlDomain") -> PairDataset:
    """The labelled pairs that `task.preferences` describes."""
    rows, pairs, labels = segment_pairs(domain, PreferenceOptions.of(domain.task.get("preferences")))
    return PairDataset(rows, pairs, labels, domain.seed)


def segment_pairs(domain: "ControlDomain", options: PreferenceOptions) -> tuple[Batch, Tensor, Tensor]:
    """Segments (their `score` is the raw return within), pairs of them [P, 2], and the annotator's labels [P]."""
    if options.origin == DATA:
        dataset: Any = domain.dataset({})
        rows = dataset.sample_segments(options.segments, options.length)
    else:
        rows = rollout_segments(domain, options)
    generator = torch.Generator().manual_seed(domain.seed)
    pairs = draw_pairs(rows.get("group", torch.zeros(len(rows))), options.pairs or len(rows), generator)
    annotator = make("annotator", **options.annotator)
    return rows, pairs.to(rows.device), annotator(rows, pairs.to(rows.device))


def rollout_segments(domain: "ControlDomain", options: PreferenceOptions) -> Batch:
    """Segments of fresh episodes of the present policy; where groups were asked for, `group` marks equal starts.

    Segments of one group began at the same reset state and at the same decision number.
    """
    found: list[Batch] = []
    groups = 0
    episodes = -(-_EPISODES_AT_A_TIME // options.group_size) * options.group_size
    while sum(len(batch) for batch in found) < options.segments:
        batch = cut(domain.rollout(episodes, group_size=options.group_size), options.length)
        found.append(batch.replace(group=batch.group + groups))
        groups = int(found[-1].group.max()) + 1
    rows = Batch.cat(found)[: options.segments]
    return rows if options.group_size > 1 else rows.replace(group=torch.zeros_like(rows.group))


def cut(batch: Batch, length: int) -> Batch:
    """Cut whole episodes [N, T] into rows of min(length, T) decisions.

    `score` becomes the sum of raw rewards within a row. Rows without decisions are dropped. Two rows are in one `group`
    where their episodes were and they start at the same decision.
    """
    length = min(length, batch.mask.shape[1])
    pieces = -(-batch.mask.shape[1] // length)

    def split(leaf: Tensor) -> Tensor:
        missing = pieces * length - leaf.shape[1]
        padded = F.pad(leaf, [0, 0] * (leaf.dim() - 2) + [0, missing])
        return padded.reshape(-1, length, *leaf.shape[2:])

    made: dict[str, Any] = {name: split(batch.get(name)) for name in _DECISION_FIELDS if name in batch}
    group = batch.group[:, None] * pieces + torch.arange(pieces, device=batch.device)
    rows = Batch(
        **made,
        inputs={name: split(leaf) for name, leaf in batch.inputs.items()},
        group=group.reshape(-1),
        score=(split(batch.get("rewards.raw", batch.reward)) * made["mask"]).sum(-1),
    )
    return rows[rows.mask.any(-1)]


def draw_pairs(group: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` pairs of distinct rows, [count, 2]: the first uniform, the second uniform within the first one's group.

    A row that is alone in its group is paired with any other row.
    """
    group = group.cpu()
    everyone = torch.arange(len(group))
    members = {int(label): everyone[group == label] for label in group.unique()}
    pairs = torch.empty(count, 2, dtype=torch.long)
    for p in range(count):
        first = int(torch.randint(len(group), (1,), generator=generator))
        peers = members[int(group[first])]
        peers = peers if len(peers) > 1 else everyone
        others = peers[peers != first]
        pairs[p] = torch.stack([everyone[first], others[torch.randint(len(others), (1,), generator=generator)][0]])
    return pairs

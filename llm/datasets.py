"""Recorded experience of a language task: demonstrations, and responses that were compared."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import RunWarning, UserError, unknown
from unirl.llm.rows import judge, padded_prompts, response_batch, right_padded
from unirl.memory.pairs import PairDataset
from unirl.registry import make


class DemonstrationDataset:
    """Recorded responses; `sample(n)` draws n of them with replacement, with its own generator."""

    def __init__(self, rows: Batch, seed: int) -> None:
        self.rows = rows
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, n: int) -> Batch:
        """`n` rows."""
        return self.rows[torch.randint(len(self), (n,), generator=self._generator).to(self.rows.device)]

    def state_dict(self) -> dict[str, Any]:
        """The generator; the rows are made again from the same task and seed."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of draws."""
        self._generator.set_state(state["generator"])


@dataclass(frozen=True)
class PreferenceSettings:
    """The `task.preferences` section: how pairs are made where a task has none recorded.

    `prompts` groups of `group_size` responses are sampled from the starting policy; every two responses of a group with
    different scores are a pair, at most `pairs_per_group` of them, labelled by `annotator`.
    """

    prompts: int = 256
    group_size: int = 8
    pairs_per_group: int = 4
    annotator: Mapping[str, Any] = field(default_factory=lambda: {"name": "by_return"})


def preference_settings(section: Mapping[str, Any] | None) -> PreferenceSettings:
    """Read `task.preferences`; raises `UserError` for unknown keys."""
    for key in section or {}:
        if key not in PreferenceSettings.__dataclass_fields__:
            raise unknown("key of task.preferences", key, PreferenceSettings.__dataclass_fields__)
    return PreferenceSettings(**(section or {}))


def recorded_rows(
    task: Any, tokenizer: Any, answers: Sequence[tuple[Any, Sequence[int]]], known: Tensor, device: str
) -> Batch:
    """Rows of (prompt, response ids), each taken as ended; scored by the task, or as `known` [N] without a verifier."""
    prompts = [prompt for prompt, _ in answers]
    tokens, mask = right_padded([ids for _, ids in answers], tokenizer.pad_token_id)
    prompt, prompt_mask = padded_prompts(prompts, tokenizer.pad_token_id)
    return response_batch(
        prompt,
        prompt_mask,
        tokens,
        mask,
        torch.ones(len(answers), dtype=torch.bool),
        judge(task, tokenizer, prompts, tokens, mask) or {"score": known},
        prompt_id=torch.tensor([p.prompt_id for p in prompts]),
    ).to(device)


def demonstrations(
    task: Any, tokenizer: Any, count: int, seed: int, device: str, context: int | None = None
) -> DemonstrationDataset:
    """`count` of the task's demonstrations, less those longer than the model's `context`.

    Raises `UserError` where there are none.
    """
    answers = task.demonstrations(count)
    if not answers:
        raise UserError("the task has no demonstrations; a method with `source: {name: offline}` needs some")
    answers = _fitting("demonstrations", answers, context)
    return DemonstrationDataset(recorded_rows(task, tokenizer, answers, torch.ones(len(answers)), device), seed)


def recorded_pairs(
    task: Any, tokenizer: Any, device: str, held_out: bool = False, context: int | None = None
) -> Batch | None:
    """The task's recorded pairs, the chosen response first (label 1); None where it has none.

    Pairs of which a response is longer than the model's `context` are left out.
    """
    compared = task.pairs(held_out)
    if not compared:
        return None
    compared = _fitting("held-out pairs" if held_out else "pairs", compared, context)
    answers = [(prompt, ids) for prompt, chosen, rejected in compared for ids in (chosen, rejected)]
    rows = recorded_rows(task, tokenizer, answers, torch.tensor([1.0, 0.0]).repeat(len(compared)), device)
    return rows.replace(
        group=torch.arange(len(compared), device=device).repeat_interleave(2),
        pairs=torch.arange(len(answers), device=device).reshape(-1, 2),
        pair_label=torch.ones(len(compared), device=device),
    )


def _fitting(what: str, records: Sequence[Any], context: int | None) -> list[Any]:
    """The records (prompt, response ids, ...) that fit into the model's context; a `RunWarning` counts the others."""
    if context is None:
        return list(records)
    fit = [(prompt, *ids) for prompt, *ids in records if len(prompt.token_ids) + max(map(len, ids)) <= context]
    longer = len(records) - len(fit)
    message = f"{longer} of {len(records)} {what} are longer than the model's context of {context} tokens"
    if not fit:
        raise UserError(f"{message}; set task.max_new_tokens lower, or take a model with a longer context")
    if longer:
        warnings.warn(RunWarning(f"{message} and are left out"), stacklevel=2)
    return fit


def sampled_pairs(rollout: Callable[..., Batch], settings: PreferenceSettings, seed: int) -> PairDataset:
    """Pairs of responses by the starting policy to the same prompt, with different scores, labelled by an annotator."""
    rows = rollout(settings.prompts * settings.group_size, group_size=settings.group_size)
    pairs = differing_pairs(rows.group, rows.score, settings.pairs_per_group)
    if len(pairs) == 0:
        raise UserError(
            f"no two of {settings.group_size} responses to a prompt differ in score, in {settings.prompts} prompts: "
            "nothing to prefer; use a task that the model sometimes solves, or more task.preferences.prompts"
        )
    options = dict(settings.annotator)
    labels = make("annotator", options.pop("name", "by_return"), **options)(rows, pairs)
    return PairDataset(rows, pairs, labels, seed)


def differing_pairs(group: Tensor, score: Tensor, per_group: int) -> Tensor:
    """Pairs (better, worse) [P, 2] of rows of one group with different scores, at most `per_group` of each group.

    Pairs of rows that are in few pairs so far come first, so that a few pairs name many different rows.
    """
    found: list[list[int]] = []
    for each in group.unique().tolist():
        rows = (group == each).nonzero().squeeze(-1)
        better = [(a, b) for a in rows.tolist() for b in rows.tolist() if score[a] > score[b]]
        found.extend(_spread(better, per_group))
    return torch.tensor(found, dtype=torch.long, device=group.device).reshape(-1, 2)


def _spread(pairs: list[tuple[int, int]], count: int) -> list[list[int]]:
    used: dict[int, int] = {}
    chosen: list[list[int]] = []
    remaining = list(pairs)
    while remaining and len(chosen) < count:
        first, second = min(remaining, key=lambda pair: used.get(pair[0], 0) + used.get(pair[1], 0))
        remaining.remove((first, second))
        chosen.append([first, second])
        used[first], used[second] = used.get(first, 0) + 1, used.get(second, 0) + 1
    return chosen

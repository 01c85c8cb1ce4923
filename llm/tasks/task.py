"""A task: problems turned into token ids, and completions into rewards."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unirl.errors import RunWarning, UserError, unknown
from unirl.llm.chat import Message, encode_prompts, encode_responses, render_prompt
from unirl.llm.tasks.problem import Problem, ProblemSet
from unirl.llm.tasks.reward_function import RewardFunction, load_reward_function
from unirl.registry import make, part_class

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Verifier = Callable[[str, str], float]
Pair = tuple["Prompt", list[int], list[int]]

# Keys of a task's configuration that every task has; the others are the hyper-parameters of its problem set.
SHARED_KEYS = (
    "domain",
    "name",
    "max_new_tokens",
    "max_prompt_tokens",
    "verifier",
    "format",
    "reward",
    "pretrain",
    "preferences",
    "budget",
    "overrides",
)
_DEMONSTRATIONS = 1  # second word of the seed, so that demonstrations are not the first prompts
_VAIN_DRAWS = 100


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it.

    `text`: what `token_ids` spell, the chat template included. `prompt_id`: the same whenever the prompt returns.
    `columns`: everything else the data say, for reward functions. `messages`: the conversation, if it is one.
    """

    token_ids: list[int]
    text: str
    reference: str
    prompt_id: int
    columns: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] | None = None


class Task:
    """Prompts, rewards, demonstrations and preference pairs of one problem set, for one tokenizer.

    `prompts` draws with the task's generator, whose state is all that `state_dict` holds; `held_out`, `demonstrations`
    and `pairs` are fixed lists. Prompts of more than `max_prompt_tokens` are left out, and so are prompts without any
    token, of which a `RunWarning` tells once; responses are cut at `max_new_tokens`, where a sampler would have stopped
    too.
    """

    def __init__(
        self,
        problems: ProblemSet,
        tokenizer: "PreTrainedTokenizerBase",
        seed: int,
        *,
        max_new_tokens: int,
        max_prompt_tokens: int | None = None,
        verifier: Verifier | None = None,
        form: Verifier | None = None,
        rewards: Sequence[RewardFunction] = (),
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self._problems, self._tokenizer, self._seed = problems, tokenizer, seed
        self._longest_prompt = max_prompt_tokens
        self._verifier, self._form, self._rewards = verifier, form, tuple(rewards)
        self._generator = np.random.default_rng(seed)
        self._told_of_empty_prompts = False

    @property
    def has_reward(self) -> bool:
        """Whether `reward` can score: there is a verifier or a reward function."""
        return self._verifier is not None or bool(self._rewards)

    def prompts(self, n: int) -> list[Prompt]:
        """`n` training prompts, drawn with the task's generator."""
        return [prompt for prompt, _ in self._draw(self._generator, n)]

    def held_out(self, n: int) -> list[Prompt]:
        """The first `n` of a fixed list that training never sees; fewer if the task has fewer."""
        return [prompt for prompt, _ in self._encoded(self._problems.held_out(n))]

    def demonstrations(self, n: int) -> list[tuple[Prompt, list[int]]]:
        """`n` training prompts with the ids of a correct or chosen response, its end included; fixed by the seed."""
        drawn = self._draw(np.random.default_rng((self._seed, _DEMONSTRATIONS)), n)
        responses = self._responses([problem for _, problem in drawn], "answer")
        return [(prompt, ids) for (prompt, _), ids in zip(drawn, responses, strict=True)]

    def pairs(self, held_out: bool = False) -> list[Pair] | None:
        """All recorded (prompt, chosen ids, rejected ids); None for a task without records.

        `held_out`: those of the held-out prompts instead of the training prompts.
        """
        problems = self._problems.preferences(held_out)
        if problems is None:
            return None
        encoded = self._encoded(problems)
        kept = [problem for _, problem in encoded]
        chosen, rejected = self._responses(kept, "answer"), self._responses(kept, "rejected")
        return [(prompt, x, y) for (prompt, _), x, y in zip(encoded, chosen, rejected, strict=True)]

    def reward(
        self, prompts: Sequence[Prompt], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
    ) -> dict[str, list[float]]:
        """Named rewards of completions, one number per row.

        `accuracy`: the verifier's verdict; `format`: 1 where the completion is well-formed; `length`: in tokens; one
        more for each function of `task.reward`, by its name. `score` is the sum of the functions where there are any,
        else the accuracy, else 0: without `has_reward` it is for a reward model or an annotator to fill. Where a
        function fails for a row and may skip it, its value is the mean of the other rows of the same prompt (of all
        rows, if there are none), so that the row neither gains nor loses by it, and `<name>_failed` is 1.
        """
        found = {"length": [float(len(ids)) for ids in completion_ids]}
        for name, verifier in (("accuracy", self._verifier), ("format", self._form)):
            if verifier is not None:
                found[name] = _verdicts(verifier, completions, [prompt.reference for prompt in prompts])
        if not self._rewards:
            return {"score": found.get("accuracy", [0.0] * len(prompts)), **found}
        columns = _columns(prompts, completions, completion_ids)
        own = {function.name: function(columns, len(prompts)) for function in self._rewards}
        for function in self._rewards:
            if function.on_failure == "skip":
                values = own[function.name]
                found[f"{function.name}_failed"] = [float(math.isnan(value)) for value in values]
                own[function.name] = _neutral(values, [prompt.prompt_id for prompt in prompts])
        return {"score": [sum(row) for row in zip(*own.values(), strict=True)], **found, **own}

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator that draws the prompts."""
        return {"generator": dict(self._generator.bit_generator.state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of prompts."""
        self._generator.bit_generator.state = dict(state["generator"])

    def _draw(self, generator: np.random.Generator, n: int) -> list[tuple[Prompt, Problem]]:
        drawn: list[tuple[Prompt, Problem]] = []
        for _ in range(_VAIN_DRAWS):
            drawn += self._encoded(self._problems.draw(generator, n - len(drawn)))
            if len(drawn) == n:
                return drawn
        if self._longest_prompt is None:
            raise UserError("hardly any prompt of the task has a token; the model needs at least one to start from")
        raise UserError(f"hardly any prompt has 1 to {self._longest_prompt} tokens; raise task.max_prompt_tokens")

    def _encoded(self, problems: Sequence[Problem]) -> list[tuple[Prompt, Problem]]:
        """Prompts of the problems, without those that are too long or empty."""
        ids = encode_prompts(self._tokenizer, [problem.prompt for problem in problems])
        self._tell_of_empty_prompts(ids)
        return [
            (self._prompt(problem, row), problem)
            for problem, row in zip(problems, ids, strict=True)
            if row and (self._longest_prompt is None or len(row) <= self._longest_prompt)
        ]

    def _tell_of_empty_prompts(self, ids: Sequence[Sequence[int]]) -> None:
        empty = sum(not row for row in ids)
        if empty and not self._told_of_empty_prompts:
            self._told_of_empty_prompts = True
            message = (
                f"{empty} of {len(ids)} prompts of the task have no tokens; these and others like them are left out"
            )
            warnings.warn(RunWarning(message), stacklevel=2)

    def _prompt(self, problem: Problem, ids: list[int]) -> Prompt:
        messages = None if isinstance(problem.prompt, str) else list(problem.prompt)
        text = render_prompt(self._tokenizer, problem.prompt)
        return Prompt(ids, text, problem.reference, problem.prompt_id, dict(problem.columns), messages)

    def _responses(self, problems: Sequence[Problem], which: str) -> list[list[int]]:
        prompts = [problem.prompt for problem in problems]
        ids = encode_responses(self._tokenizer, prompts, [getattr(problem, which) for problem in problems])
        return [row[: self.max_new_tokens] for row in ids]


def make_problems(config: Mapping[str, Any]) -> ProblemSet:
    """The problem set that a task's configuration describes; raises `UserError` for an unknown task or option."""
    if "name" not in config:
        raise UserError("the task's configuration has no `name`; see: unirl parts task")
    name = str(config["name"])
    options = {key: value for key, value in config.items() if key not in SHARED_KEYS}
    known = getattr(part_class("task", name), "__dataclass_fields__", {})
    for key in options:
        if key not in known:
            raise unknown(f"option of task '{name}'", key, [*known, *SHARED_KEYS])
    made: ProblemSet = make("task", name, **options)
    return made


def make_task(task_config: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", seed: int) -> Task:
    """The task that a configuration describes.

    Keys: `name` and the options of that problem set; `max_new_tokens`; `max_prompt_tokens` (no limit); `verifier`, a
    name or `{name: ..., hyper-parameters}` (the problem set's); `format`, a pattern (the problem set's); `reward`, one
    or several of module:function, file.py:function, or
    `{function: ..., timeout: ..., on_failure: ...}`. Raises `UserError` for wrong names or values.
    """
    problems = make_problems(task_config)
    facts = problems.facts
    verifier = task_config.get("verifier") or facts.verifier
    form = task_config.get("format") or facts.format
    answer_tokens, longest = task_config.get("max_new_tokens"), task_config.get("max_prompt_tokens")
    return Task(
        problems,
        tokenizer,
        seed,
        max_new_tokens=_positive("max_new_tokens", facts.max_new_tokens if answer_tokens is None else answer_tokens),
        max_prompt_tokens=None if longest is None else _positive("max_prompt_tokens", longest),
        verifier=_verifier(verifier) if verifier else None,
        form=make("verifier", "format", pattern=form) if form else None,
        rewards=[load_reward_function(spec) for spec in _several(task_config.get("reward"))],
    )


def _verifier(config: str | Mapping[str, Any]) -> Verifier:
    options = {"name": config} if isinstance(config, str) else dict(config)
    if "name" not in options:
        raise UserError("task.verifier has no `name`; see: unirl parts verifier")
    made: Verifier = make("verifier", options.pop("name"), **options)
    return made


def _several(reward: Any) -> list[Any]:
    if reward is None:
        return []
    return [reward] if isinstance(reward, str | Mapping) else list(reward)


def _verdicts(verifier: Verifier, completions: Sequence[str], references: Sequence[str]) -> list[float]:
    """One verdict per row; a verifier that can give many at a time does."""
    many = getattr(verifier, "score_all", None)
    if many is not None:
        return [float(value) for value in many(completions, references)]
    return [float(verifier(text, reference)) for text, reference in zip(completions, references, strict=True)]


def _neutral(values: Sequence[float], prompt_ids: Sequence[int]) -> list[float]:
    """The values, NaN replaced by the mean of the others of the same prompt, or of all others."""
    known = [(prompt, value) for prompt, value in zip(prompt_ids, values, strict=True) if not math.isnan(value)]

    def mean(prompt: int) -> float:
        same = [value for other, value in known if other == prompt] or [value for _, value in known]
        return sum(same) / len(same)

    return [mean(prompt) if math.isnan(x) else x for x, prompt in zip(values, prompt_ids, strict=True)]


def _positive(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"task.{key} is {value!r}; it must be a whole number of at least 1")
    return value


def _columns(
    prompts: Sequence[Prompt], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
) -> dict[str, list[Any]]:
    """What a reward function is called with: as in TRL, conversations stay conversations."""
    names = {name for prompt in prompts for name in prompt.columns}
    return {
        **{name: [prompt.columns.get(name) for prompt in prompts] for name in sorted(names)},
        "reference": [prompt.reference for prompt in prompts],
        "prompts": [prompt.text if prompt.messages is None else prompt.messages for prompt in prompts],
        "completions": [
            text if prompt.messages is None else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ],
        "completion_ids": [list(ids) for ids in completion_ids],
    }

"""Recorded preferences: prompts with a chosen and a rejected response."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.random import Generator

from unirl.errors import UserError
from unirl.llm.chat import Text, check_text
from unirl.llm.tasks.problem import Facts, Problem, choose, is_held_out
from unirl.llm.tasks.records import names_a_file
from unirl.registry import make, register


@register("task", "chat_preferences")
@dataclass(frozen=True)
class ChatPreferences:
    """Pairs of responses in TRL's plain or conversational form, as a `pair_reader` finds them.

    `path` is handed to the `reader`, which yields records with `prompt`, `chosen` and `rejected`, each a string or a
    list of {role, content} messages; a `path` that is no file is the id of a dataset. `columns` are the reader's other
    hyper-parameters: the names of the columns, `prompt: null` for a prompt that is part of both responses.
    Demonstrations are the chosen responses. One prompt in ten is held out, with all of its pairs. There is no verifier:
    online methods need `task.reward`, a reward model, or an annotator.
    """

    path: str | None = None
    reader: str = "jsonl"
    columns: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError("a task of recorded preferences needs its data: task.path=FILE.jsonl")

    @property
    def facts(self) -> Facts:
        """What is known about prompts and answers in general."""
        return Facts(max_new_tokens=128)

    def draw(self, generator: Generator, n: int) -> list[Problem]:
        """`n` training problems."""
        return choose(self._sides[0], generator, n)

    def held_out(self, n: int) -> list[Problem]:
        """The first `n` of the held-out problems."""
        different = {problem.prompt_id: problem for problem in self._sides[1]}
        return list(different.values())[:n]

    def preferences(self, held_out: bool) -> list[Problem]:
        """All pairs of one side of the split."""
        return self._sides[held_out]

    @cached_property
    def _sides(self) -> tuple[list[Problem], list[Problem]]:
        """Training and held-out problems; read when first asked for."""
        ids: dict[str, int] = {}
        problems = [self._problem(record, i, ids) for i, record in enumerate(self._records(), start=1)]
        training = [problem for problem in problems if not is_held_out(problem.key)]
        if not training:
            raise UserError(f"{self.path}: {len(problems)} preference pairs are too few to hold some out")
        return training, [problem for problem in problems if is_held_out(problem.key)]

    def _records(self) -> Iterable[Any]:
        hub = self.reader == "jsonl" and not names_a_file(str(self.path))
        source = {"id": self.path} if hub else {"path": self.path}
        records: Iterable[Any] = make("pair_reader", "hub" if hub else self.reader, **source, **self.columns)()
        return records

    def _problem(self, record: Any, number: int, ids: dict[str, int]) -> Problem:
        where = f"{self.path} pair {number}"
        prompt = check_text(record.prompt, f"{where}, 'prompt'")
        key = prompt if isinstance(prompt, str) else repr(prompt)
        return Problem(
            prompt=prompt,
            reference="",
            answer=_response(record.chosen, f"{where}, 'chosen'"),
            rejected=_response(record.rejected, f"{where}, 'rejected'"),
            prompt_id=ids.setdefault(key, len(ids)),
            key=key,
        )


@register("task", "hh")
@dataclass(frozen=True)
class HelpfulHarmless(ChatPreferences):
    """Anthropic's helpful-harmless dialogues (Bai et al. 2022): `chosen` and `rejected` share all but the last turn."""

    reader: str = "hh"


def _response(response: Any, where: str) -> Text:
    if isinstance(response, Mapping):  # TRL also writes a single message
        response = [response]
    return check_text(response, where)

"""Problems as text, before any tokenizer; and how they are divided into training and held-out ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.random import Generator

from unirl.llm.chat import Text

HELD_OUT_SHARE = 10  # one problem in ten is never trained on
_HELD_OUT_SEED = 0
_VAIN_DRAWS = 2000  # without a new problem: then there are no more


@dataclass(frozen=True)
class Problem:
    """One prompt and what is known about it.

    `reference`: what a verifier compares with. `answer`: a correct or preferred response; `rejected`: a worse one.
    `prompt_id`: the same whenever the same prompt returns. `key`: problems of the same key lie on the same side of the
    split. `columns`: everything else, for reward functions.
    """

    prompt: Text
    reference: str
    answer: Text
    prompt_id: int
    key: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    rejected: Text | None = None


@dataclass(frozen=True)
class Facts:
    """What a problem set knows about its answers; the configuration may say otherwise for all but the alphabet.

    `alphabet`: every character of prompts and answers, where they are few; None for free text. `format`: the pattern
    of a well-formed answer. `verifier`: name and hyper-parameters; None where answers cannot be checked.
    """

    max_new_tokens: int
    alphabet: str | None = None
    format: str | None = None
    verifier: Mapping[str, Any] | None = None


class ProblemSet(Protocol):
    """Where problems come from: the parts of kind `task`."""

    @property
    def facts(self) -> Facts:
        """What is known about prompts and answers in general."""
        ...

    def draw(self, generator: Generator, n: int) -> list[Problem]:
        """`n` training problems."""
        ...

    def held_out(self, n: int) -> list[Problem]:
        """The first `n` of a fixed list of problems that are never drawn for training; fewer if there are fewer."""
        ...

    def preferences(self, held_out: bool) -> list[Problem] | None:
        """Every problem with a `rejected` answer, on one side of the split; None where the task records none."""
        ...


def is_held_out(key: str) -> bool:
    """The side of the split, from the key alone: the same in every run, with any seed."""
    return crc32(key.encode()) % HELD_OUT_SHARE == 0


def draw_training(make: Callable[[Generator], Problem], generator: Generator, n: int) -> list[Problem]:
    """`n` generated problems, those of the held-out side drawn again."""
    drawn: list[Problem] = []
    while len(drawn) < n:
        problem = make(generator)
        if not is_held_out(problem.key):
            drawn.append(problem)
    return drawn


def draw_held_out(make: Callable[[Generator], Problem], n: int) -> list[Problem]:
    """The first `n` different generated problems of the held-out side, fewer if no more turn up."""
    generator = np.random.default_rng(_HELD_OUT_SEED)
    found: dict[int, Problem] = {}
    vain = 0
    while len(found) < n and vain < _VAIN_DRAWS:
        problem = make(generator)
        new = is_held_out(problem.key) and problem.prompt_id not in found
        vain = 0 if new else vain + 1
        if new:
            found[problem.prompt_id] = problem
    return list(found.values())


def choose(problems: Sequence[Problem], generator: Generator, n: int) -> list[Problem]:
    """`n` of the problems at random, all different where there are enough."""
    return [problems[i] for i in generator.choice(len(problems), n, replace=n > len(problems))]

"""Word problems with a number for an answer, from GSM8K or any records of a question and an answer."""

from dataclasses import dataclass
from functools import cached_property

from numpy.random import Generator

from unirl.errors import UserError
from unirl.llm.chat import Text, check_text, plain
from unirl.llm.tasks.problem import Facts, Problem, choose, is_held_out
from unirl.llm.tasks.records import Located, read_records
from unirl.registry import register


@register("task", "gsm8k")
@dataclass(frozen=True)
class GSM8K:
    """Questions and worked answers of GSM8K (Cobbe et al. 2021), or your own records of the same shape.

    `path`: a `.jsonl` or `.json` file (also `.gz`) or a dataset id such as `openai/gsm8k` with `config: main`;
    `test_path`: the held-out records, or `test_split` of the dataset id; without either one question in ten is held
    out. `question` and `answer` name the fields; a field may hold a string or a list of {role, content} messages. The
    reference is what follows the answer's last "####", or the whole answer where there is none.

    `prompt`: a template such as "Question: {question}\\nAnswer:" for models without a chat template; by default the
    question is the user's turn of a conversation, after `system` if given. Other fields become columns for reward
    functions, beside `answer`.
    """

    path: str | None = None
    test_path: str | None = None
    config: str | None = None
    split: str = "train"
    test_split: str | None = None
    question: str = "question"
    answer: str = "answer"
    prompt: str | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError("task gsm8k needs its data: task.path=FILE.jsonl, or a dataset id such as openai/gsm8k")
        if self.prompt is not None and "{question}" not in self.prompt:
            raise UserError(f"task.prompt is '{self.prompt}'; it must contain {{question}}")

    @property
    def facts(self) -> Facts:
        """What is known about prompts and answers in general."""
        return Facts(max_new_tokens=320, format=r".*####\s*[-$]?[\d,.]+\s*", verifier={"name": "number"})

    def draw(self, generator: Generator, n: int) -> list[Problem]:
        """`n` training problems."""
        return choose(self._sides[0], generator, n)

    def held_out(self, n: int) -> list[Problem]:
        """The first `n` of the held-out problems."""
        return self._sides[1][:n]

    def preferences(self, held_out: bool) -> None:
        """None are recorded."""

    @cached_property
    def _sides(self) -> tuple[list[Problem], list[Problem]]:
        """Training and held-out problems; read when first asked for."""
        records = read_records(str(self.path), (self.question, self.answer), self.split, self.config)
        problems = [self._problem(located, i) for i, located in enumerate(records)]
        apart = self._test_records()
        if apart is not None:
            return problems, [self._problem(located, len(records) + i) for i, located in enumerate(apart)]
        training = [problem for problem in problems if not is_held_out(problem.key)]
        held_out = [problem for problem in problems if is_held_out(problem.key)]
        if not training or not held_out:
            raise UserError(f"{self.path}: {len(problems)} records are too few to hold some out; give task.test_path")
        return training, held_out

    def _test_records(self) -> list[Located] | None:
        if self.test_path is not None:
            return read_records(self.test_path, (self.question, self.answer), self.test_split or "test", self.config)
        if self.test_split is not None:
            return read_records(str(self.path), (self.question, self.answer), self.test_split, self.config)
        return None

    def _problem(self, located: Located, prompt_id: int) -> Problem:
        where, record = located
        question = check_text(record[self.question], f"{where}, '{self.question}'")
        answer = check_text(record[self.answer], f"{where}, '{self.answer}'")
        return Problem(
            prompt=self._prompt(question),
            reference=reference_of(plain(answer)),
            answer=answer,
            prompt_id=prompt_id,
            key=plain(question),
            columns={**record, "answer": record[self.answer]},
        )

    def _prompt(self, question: Text) -> Text:
        if self.prompt is not None:
            return self.prompt.replace("{question}", plain(question))
        turns = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        return [{"role": "system", "content": self.system}, *turns] if self.system else turns


def reference_of(answer: str) -> str:
    """The final result of a worked answer: what follows its last "####", or all of it."""
    return answer.rpartition("####")[2].strip()

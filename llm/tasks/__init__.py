"""Language tasks: prompts, what a right answer is, demonstrations and preference pairs."""

import unirl.llm.verifiers  # noqa: F401  (tasks name their verifiers)
from unirl.llm.tasks.addition import Addition
from unirl.llm.tasks.countdown import Countdown
from unirl.llm.tasks.gsm8k import GSM8K
from unirl.llm.tasks.preferences import ChatPreferences, HelpfulHarmless
from unirl.llm.tasks.problem import Facts, Problem, ProblemSet
from unirl.llm.tasks.task import Prompt, Task, make_problems, make_task

__all__ = [
    "GSM8K",
    "Addition",
    "ChatPreferences",
    "Countdown",
    "Facts",
    "HelpfulHarmless",
    "Problem",
    "ProblemSet",
    "Prompt",
    "Task",
    "make_problems",
    "make_task",
]

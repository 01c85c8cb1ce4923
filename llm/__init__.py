"""The language domain: causal language models trained on prompts whose answers a programme can check.

Importing this package registers the tasks, verifiers, roll-out engines and encoder; `LanguageDomain`, which needs
transformers, is imported on first use.
"""

from typing import TYPE_CHECKING, Any

import unirl.llm.encoder
import unirl.llm.rollout
import unirl.llm.tasks
import unirl.llm.verifiers  # noqa: F401  (importing registers them)

if TYPE_CHECKING:
    from unirl.llm.domain import LanguageDomain

__all__ = ["LanguageDomain"]


def __getattr__(name: str) -> Any:
    if name == "LanguageDomain":
        from unirl.llm.domain import LanguageDomain

        return LanguageDomain
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

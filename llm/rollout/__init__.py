"""Sampling responses: the interface of engines, and the engines themselves.

Importing this package registers the engines and needs neither transformers nor vLLM; `open` does.
"""

import unirl.llm.rollout.transformers_engine
import unirl.llm.rollout.vllm_engine
import unirl.llm.rollout.vllm_server  # noqa: F401  (importing registers them)
from unirl.llm.rollout.engine import Engine, MixtureEngine, Responses, Sampling

__all__ = ["Engine", "MixtureEngine", "Responses", "Sampling"]

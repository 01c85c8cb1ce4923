"""A sandbox for Python programs that a model wrote: processes that can harm nothing and read nothing."""

from unirl.llm.sandbox.layers import LAYERS, missing_layers
from unirl.llm.sandbox.record import Job, Limits, Result, SandboxError
from unirl.llm.sandbox.sandbox import Sandbox

__all__ = ["LAYERS", "Job", "Limits", "Result", "Sandbox", "SandboxError", "missing_layers"]

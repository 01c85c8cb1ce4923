"""Shared set-up: one thread, so that runs repeat bit for bit, the helpers on the path, extras that are absent."""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script starts the suite with `&`
settings.register_profile("untimed", deadline=None)  # on a busy machine an example may take any time
settings.load_profile("untimed")

# Without an extra, the folders that need it are left out, so that `pip install unirl[control]` can be tested alone.
collect_ignore_glob: list[str] = []
if find_spec("transformers") is None:
    collect_ignore_glob += ["llm/*", "both/*", "docs/*", "reliability/*"]
if find_spec("gymnasium") is None:
    collect_ignore_glob += ["control/*", "both/*", "docs/*", "reliability/*"]
if find_spec("vllm") is None:
    collect_ignore_glob += ["vllm_engines/*"]

"""Shared set-up: one thread, so that runs repeat bit for bit, and the helpers on the path."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)

"""Recorded experience for control: D4RL and Minari data, scripted experts, collection, reference scores, videos."""

from unirl.control.data.collect import Collected, PolicyFunction, collect, gather, policy_function
from unirl.control.data.d4rl import find_d4rl, read_d4rl, write_d4rl
from unirl.control.data.dataset import DataOptions, TransitionDataset, load_dataset, read_data
from unirl.control.data.minari_files import read_minari, write_minari
from unirl.control.data.sb3 import SB3Policy
from unirl.control.data.scores import normalized_score, reference_scores
from unirl.control.data.transitions import Transitions

__all__ = [
    "Collected",
    "DataOptions",
    "PolicyFunction",
    "SB3Policy",
    "TransitionDataset",
    "Transitions",
    "collect",
    "find_d4rl",
    "gather",
    "load_dataset",
    "normalized_score",
    "policy_function",
    "read_d4rl",
    "read_data",
    "read_minari",
    "reference_scores",
    "write_d4rl",
    "write_minari",
]

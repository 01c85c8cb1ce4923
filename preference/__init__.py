"""Preferences: annotators, pair files, reward and preference models, and exact preference games."""

from unirl.preference import annotate, annotators, fitting, games, pairs, readers, reward_models

__all__ = ["annotate", "annotators", "fitting", "games", "pairs", "readers", "reward_models"]

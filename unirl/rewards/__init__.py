"""Rewards: what a batch is worth. A part takes a batch and changes its `score` [N] or its `reward` [N, T]."""

import unirl.rewards.combine
import unirl.rewards.divergence
import unirl.rewards.expert
import unirl.rewards.length
import unirl.rewards.normalize
import unirl.rewards.play  # noqa: F401

"""Auxiliary models of the control domain: what a method needs beside policy and critics.

A model is registered under kind `model`; a part asks for it by name in its `requirements()`
(`Requirements(models={"behavior_vae": {...}})`). Its quantities are read as `estimate.NAME` (computed once per batch,
without gradients) or `model.NAME` (differentiable, anew for every minibatch). A part with `loss_name` equal to the
model's name trains it.
"""

import unirl.control.models.action_gradient
import unirl.control.models.action_scale
import unirl.control.models.behavior_vae
import unirl.control.models.candidates
import unirl.control.models.dynamics_classifier
import unirl.control.models.expert_discriminator
import unirl.control.models.improved_actions
import unirl.control.models.joint_pass
import unirl.control.models.nearest
import unirl.control.models.policy_values
import unirl.control.models.reward_head  # noqa: F401

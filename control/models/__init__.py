"""Auxiliary models of the control domain: what a method needs beside policy and critics.

A model is registered under kind `model`; a part asks for it by name in its `requirements()`
(`Requirements(models={"behavior_vae": {...}})`). Its quantities are read as `estimate.NAME` (computed once per batch,
without gradients) or `model.NAME` (differentiable, anew for every minibatch). A part with `loss_name` equal to the
model's name trains it.
"""

"""Presets of `unirl compare`."""

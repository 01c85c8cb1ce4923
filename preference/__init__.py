"""Preference domain."""

"""Comparing methods across domains: cells in processes of their own, tables, curves, one HTML page."""

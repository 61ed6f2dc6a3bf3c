"""Evaluations and comparisons as text and JSON."""

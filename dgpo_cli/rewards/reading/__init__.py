"""Finds the answer in a completion."""

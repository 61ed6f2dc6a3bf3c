"""Typed settings, presets and where each value came from."""

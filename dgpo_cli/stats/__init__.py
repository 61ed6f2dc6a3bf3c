"""Estimates, intervals and tests of what was measured."""

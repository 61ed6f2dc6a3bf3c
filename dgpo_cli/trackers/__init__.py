"""Trackers of a run, each through its own package: one file per tracker."""

"""Trackers that a run is sent to, each through its own package: one small file a tracker."""

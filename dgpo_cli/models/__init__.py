"""Loading, scoring, checkpoints."""

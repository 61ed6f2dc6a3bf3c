"""A training step: sample, score, update; and what it keeps on disk."""

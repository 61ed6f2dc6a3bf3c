"""Logs of other programs: their samples, their verdicts, and what they say of how it was done."""

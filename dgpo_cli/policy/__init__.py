"""The model: how it is loaded, what it computes for every token."""

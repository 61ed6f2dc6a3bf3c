"""Environments: what a model talks with for several turns, each in a process of its own."""

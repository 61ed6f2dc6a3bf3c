"""Checks of the machine, the packages and the answers of a file."""

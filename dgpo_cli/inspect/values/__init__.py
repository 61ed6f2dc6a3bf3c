"""Where the outcome of a completion was decided: its value from token to token."""

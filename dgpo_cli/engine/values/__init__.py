"""What completions are worth after each of their tokens, by sampling on from there."""

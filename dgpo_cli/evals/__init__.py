"""dgpo eval, rollout, regrade and compare."""

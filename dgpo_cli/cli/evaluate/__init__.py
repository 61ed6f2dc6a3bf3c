"""What dgpo eval does beside evaluating one model on one benchmark; bench and rollout."""

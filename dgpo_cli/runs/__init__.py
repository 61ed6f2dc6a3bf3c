"""What lies in a run folder: steps, rollouts, history."""

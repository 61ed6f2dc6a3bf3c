"""What is on the screen while a model is evaluated."""

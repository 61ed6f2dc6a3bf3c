"""dgpo train."""

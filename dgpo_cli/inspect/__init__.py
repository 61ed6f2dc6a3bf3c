"""dgpo inspect."""

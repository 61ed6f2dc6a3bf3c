"""Where problems come from and how they are written."""

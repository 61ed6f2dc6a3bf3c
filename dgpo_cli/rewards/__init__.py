"""Answer checking in worker processes."""

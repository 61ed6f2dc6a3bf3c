"""One policy on many devices: ranks, how they start, sharding."""

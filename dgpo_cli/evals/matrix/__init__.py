"""Many models on many benchmarks: evaluated one after the other, and shown as one table."""

"""The commands as short compositions of the engine's verbs."""

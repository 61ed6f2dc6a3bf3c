"""dgpo: train language models with DGPO (arXiv 2605.03327), sample, evaluate, inspect credit."""

__version__ = "0.1.0"

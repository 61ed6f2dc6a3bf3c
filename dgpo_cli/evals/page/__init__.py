"""Evaluations as one page: what is stored of them, and how the page shows it."""

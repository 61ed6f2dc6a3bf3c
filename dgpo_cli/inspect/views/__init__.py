"""Inspections as text for a terminal."""

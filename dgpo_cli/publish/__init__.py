"""Merges and uploads models."""

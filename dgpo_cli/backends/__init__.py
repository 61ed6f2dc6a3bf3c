"""Samplers behind one protocol."""

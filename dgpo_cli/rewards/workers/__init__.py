"""Checks answers in processes that may be killed."""

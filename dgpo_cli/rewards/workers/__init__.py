"""Checks answers in killable processes."""

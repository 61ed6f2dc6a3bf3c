"""What can go wrong, and the exit code that each kind of failure ends the process with.

A message is one line for the user: the value, the setting, the fix.
"""

from __future__ import annotations


class DgpoError(Exception):
    """A failed run, explained in one line. Exit code 1."""

    exit_code = 1


class ConfigError(DgpoError):
    """A setting, flag or combination that cannot work. Exit code 2, nothing has been run."""

    exit_code = 2


class DataError(DgpoError):
    """A file of prompts, rollouts or a benchmark that cannot be read or is not what it claims.

    Exit code 2: files are read before anything is run.
    """

    exit_code = 2


class ModelError(DgpoError):
    """A model, adapter or tokenizer that cannot be loaded or does not fit the settings."""


class BackendError(DgpoError):
    """The sampler failed, or the chosen backend is not available here."""


class CheckpointError(DgpoError):
    """A checkpoint that cannot be written, read or resumed from."""


class RunFolderBusy(DgpoError):
    """Another process holds the run folder."""


class NonFiniteError(DgpoError):
    """Too many optimiser steps in a row had a loss or gradient that is not finite."""


class HubError(DgpoError):
    """The Hugging Face hub refused, or could not be reached."""

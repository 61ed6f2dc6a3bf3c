"""Lets `python -m dgpo_cli` do what `dgpo` does."""

from dgpo_cli.cli.main import main

main()

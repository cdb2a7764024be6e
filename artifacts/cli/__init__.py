"""The ``artifacts`` command. What it does lives in the packages; here is how it is said."""

from artifacts.cli.main import main

__all__ = ["main"]

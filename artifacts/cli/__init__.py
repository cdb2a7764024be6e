"""The ``artifacts`` command. What it does lives in the packages; here is how it is said."""

import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The entry point of the ``artifacts`` command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python's own answer to Ctrl-C is a traceback. Until the command's own is there the system's ends the process.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from artifacts.cli.main import start

    start()

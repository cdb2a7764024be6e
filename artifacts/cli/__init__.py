"""The ``artifacts`` command. What it does lives in the packages; here is how it is said."""

import gc
import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The entry point of the ``artifacts`` command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python's own answer to Ctrl-C is a traceback. Until the command's own is there the system's ends the process.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Nothing here makes cycles by the thousand: a quarter of the start would be spent looking for them.
    gc.set_threshold(100_000, 20, 100)
    from artifacts.cli.main import start

    start()

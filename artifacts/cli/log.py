"""The command's log, for ``-vv`` and ``--log-file``; without them nobody waits for it to be loaded."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from artifacts.cli.config import ConfigError

# Our own only: those of the SDKs would print signatures and tokens.
_LOGGER = logging.getLogger("artifacts")


@contextlib.contextmanager
def logging_to(file: str | None, warn: Callable[[str], None], *, terminal: bool) -> Iterator[logging.Logger]:
    """The log while the work goes on, in UTC.

    Args:
        file: everything is appended here; None is no file.
        warn: told once when the file cannot be written any more; the work goes on.
        terminal: what is told to no person goes to standard error.

    Raises:
        ConfigError: the file cannot be opened.
    """
    targets: list[logging.Handler] = []
    if terminal:
        targets.append(logging.StreamHandler())
        targets[0].addFilter(lambda record: record.levelno < logging.INFO)  # lines for a person are there already
    if file is not None:
        try:
            targets.append(_LogFile(file, warn))
        except OSError as error:
            raise ConfigError(f"--log-file {file}: {error.strerror}") from error
    lines = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    lines.converter = time.gmtime
    _LOGGER.setLevel(logging.DEBUG)
    _LOGGER.propagate = False
    for target in targets:
        target.setFormatter(lines)
        _LOGGER.addHandler(target)
    try:
        yield _LOGGER
    finally:
        for target in targets:
            _LOGGER.removeHandler(target)
            target.close()


class _LogFile(logging.FileHandler):
    """The log in a file. When it cannot be written that is told once, and the work goes on."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        super().__init__(path, encoding="utf-8")
        self._warn = warn

    def close(self) -> None:
        with contextlib.suppress(OSError):  # each line was flushed: what fails here has been told
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        del record
        _LOGGER.removeHandler(self)
        self.close()
        self._warn(f"--log-file {self.baseFilename} cannot be written ({sys.exception()}); logging ends")

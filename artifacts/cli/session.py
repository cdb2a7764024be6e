"""What every command shares: its signals, its log, how it tells errors, and the exit code it ends with."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import click

from artifacts.cli import exits
from artifacts.cli.display import Display, table, usage_line
from artifacts.errors import DiskError, PrefixError, StagingError
from artifacts.events import Event, Failed, Passed, Published, Receipt, run_id, utc
from artifacts.text import printable
from creds.errors import Cancelled, ToolkitError
from creds.store import Cancel

if TYPE_CHECKING:
    import logging

    from artifacts.cli.config import Settings


@dataclass(kw_only=True)
class Session:
    """One run of the command.

    Attributes:
        op: the command's name, for the summary.
        as_json: receipts and a summary on standard output, one JSON object a line.
        verbosity: -1 for ``-q``, 0, 1 for ``-v``, 2 for ``-vv``.
        show_traceback: print the traceback of an error.
        log_file: everything that is told, with UTC times, is appended here as well.
        settings: what the configuration file says, once it was read.
        deadline_seconds: the command line's: the work is stopped when it takes longer; None leaves it to the file.
    """

    op: str
    as_json: bool = False
    verbosity: int = 0
    show_traceback: bool = False
    log_file: str | None = None
    deadline_seconds: float | None = None
    cancel: Cancel = field(default_factory=Cancel)
    receipts: list[Receipt] = field(default_factory=list)
    command_exit: int | None = None
    run: str = field(default_factory=run_id)
    settings: Settings | None = None
    signalled: int | None = None
    _pass_on: Callable[[int], None] | None = None
    _display: Display | None = None
    _seconds: float | None = None
    _began: float = field(default_factory=time.monotonic)
    _unprinted: OSError | None = None
    _log: logging.Logger | None = None
    _deadline: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def on_event(self, event: Event) -> None:
        """Show an event, log it, and keep the receipt it carries. What cannot be printed does not fail the work."""
        receipt = None
        if isinstance(event, Published | Failed | Passed):
            # A call of the library is a run of its own; here it is one of this command, as its record and summary say.
            receipt = event.receipt
            if receipt.run != self.run:
                receipt = replace(receipt, run=self.run)
                event = replace(event, receipt=receipt)
            self.receipts.append(receipt)
        if self._log is not None:
            self._log.debug("%r", event)
        try:
            if self._display is not None:
                self._display(event)
            if receipt is not None and self.as_json:
                print_json(receipt.to_json())
        except OSError as error:
            _drop_stdout()
            self._unprinted = error

    def say(self, text: str) -> None:
        """One line for a person, on standard error."""
        if self.verbosity >= 0:
            self._write(text)

    def warn(self, text: str) -> None:
        """One line that a person should read even with ``-q``."""
        self._write(f"warning: {text}")

    def _write(self, text: str) -> None:
        line = printable(text)
        if self._log is not None:
            self._log.info("%s", line)
        with contextlib.suppress(OSError):  # there is no other place to tell of it
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def reserve_stdout(self) -> None:
        """Keep standard output for what the command was asked for: no results are printed on it."""
        if self._display is not None:
            self._display.results = False

    @contextlib.contextmanager
    def stdin(self) -> Iterator[IO[bytes]]:
        """Standard input; a read that waits for more ends when the work is stopped."""
        with contextlib.closing(_Stdin(self.cancel)) as raw, self.cancel.calling(raw.wake):
            yield io.BufferedReader(raw)

    def forwarding(self, pass_on: Callable[[int], None] | None) -> None:
        """Send signals to ``pass_on`` instead of stopping the work; None goes back."""
        self._pass_on = pass_on
        if pass_on is not None and self.signalled is not None:
            pass_on(self.signalled)

    def take_deadline(self) -> float | None:
        """Keep the deadline from stopping the work, and say how many seconds are left to it; None where there is none.

        Raises:
            DeadlineExceeded: it is over.
        """
        self._deadline.close()
        self.cancel.check()
        return None if self._seconds is None else self._began + self._seconds - time.monotonic()

    def stop_after(self, seconds: float) -> None:
        """Stop the work when this long has passed since its beginning; the first who says so has it."""
        if self._seconds is None:
            self._seconds = seconds
            self._deadline.enter_context(self.cancel.within(seconds, self._began))

    def perform(self, work: Callable[[], int | None]) -> int:
        """Do the command's work, tell how it ended, and return the exit code. Never raises."""
        code = self._ending(lambda: self._logged(work))
        if self.signalled is not None and code in (exits.DONE, exits.INTERRUPTED):
            code = 128 + self.signalled
        if self.as_json:
            import json

            summary = json.dumps(self.summary(code), separators=(",", ":"))
            code = self._ending(lambda: print_json(summary)) or code
        return code

    def _logged(self, work: Callable[[], int | None]) -> int:
        with self._logging(), self._signals(), self._deadline:
            if self.deadline_seconds is not None:
                self.stop_after(self.deadline_seconds)
            return self._ending(lambda: self._shown(work))

    def _shown(self, work: Callable[[], int | None]) -> int | None:
        try:
            with Display(self.verbosity, results=not self.as_json) as self._display:
                code = work()
        finally:
            self._display = None
        if self._unprinted is not None and not code:
            raise self._unprinted
        return code

    def _ending(self, work: Callable[[], int | None]) -> int:
        """Do a part of the work; what it raises is told, and becomes an exit code."""
        try:
            return work() or exits.DONE
        except ToolkitError as error:
            return self.tell(error)
        except click.ClickException as error:
            self._write(usage_line(error))
            return error.exit_code
        except BrokenPipeError:
            # Whoever read our output has gone, as `head` does; there is nobody left to tell.
            _drop_stdout()
            return 128 + signal.SIGPIPE
        except OSError as error:
            _drop_stdout()
            return self.tell(DiskError.of("use", str(error.filename or "standard output"), error))
        except KeyboardInterrupt:
            return exits.INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last line of defence turns a bug into exit 1 and a file
            return self._bug(error)

    def results(self, receipts: Iterable[Receipt]) -> None:
        """Print what became of each artifact as a table, on a terminal; elsewhere each was told as it came."""
        if not self.as_json and self.verbosity >= 0 and sys.stdout.isatty():
            table(receipts)

    def summary(self, code: int) -> dict[str, Any]:
        """The last line of ``--json``."""
        counts = {
            status: sum(receipt.status == status for receipt in self.receipts)
            for status in ("done", "unchanged", "empty", "failed")
        }
        return {
            "v": 1,
            "type": "summary",
            "time": utc(datetime.now(UTC)),
            "run": self.run,
            "op": self.op,
            **counts,
            "owed": [receipt.label for receipt in self.receipts if receipt.status == "owed"],
            "bytes": sum(receipt.object_bytes or 0 for receipt in self.receipts if receipt.status == "done"),
            "seconds": round(time.monotonic() - self._began, 3),
            "command_exit": self.command_exit,
            "exit": code,
        }

    def tell(self, error: ToolkitError, label: str | None = None) -> int:
        """Tell a person of an error (an artifact's, if ``label`` names one) in one line, and return its exit code."""
        code = exits.exit_code(error)
        if any(receipt.error and receipt.error["message"] == str(error) for receipt in self.receipts):
            pass  # it was told with its receipt
        elif isinstance(error, Cancelled) and self.signalled is not None:
            self._write(f"stopped by {signal.Signals(self.signalled).name}")
        elif isinstance(error, PrefixError):
            self._write(f"error: {error}; exit {code}")
        elif isinstance(error, StagingError) and self.receipts:
            # Each failure was told with its receipt.
            self._write(f"error: {len(error.failures)} of {len(error.receipts)} artifacts failed; exit {code}")
        else:
            hint = f" (hint: {error.hint})" if error.hint else ""
            self._write(f"{'error' if label is None else f'{label}: failed'}: {error}{hint}")
        if self.show_traceback:
            import traceback

            traceback.print_exception(error)
        return code

    def _bug(self, error: Exception) -> int:
        import tempfile
        import traceback

        try:
            descriptor, path = tempfile.mkstemp(prefix="artifacts-traceback-", suffix=".txt")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                traceback.print_exception(error, file=file)
            where = f"in {path}"
        except OSError:
            # Better here than nowhere.
            traceback.print_exception(error)
            where = "above"
        self._write(f"error: a bug in this tool ({type(error).__name__}); the traceback is {where}")
        if self.show_traceback:
            traceback.print_exception(error)
        return exits.BUG

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """A signal stops the work, or goes to the command that runs; the next one ends the process."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            first = self.signalled is None
            self.signalled = self.signalled or number
            if self._pass_on is not None and first:
                self._pass_on(number)
            elif self._pass_on is None and not self.cancel.cancelled:
                self.cancel.cancel(f"stopped by {signal.Signals(number).name}")
            else:
                if self._pass_on is not None:
                    self._pass_on(signal.SIGKILL)
                os._exit(128 + number)

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Keep the log that was asked for."""
        if self.verbosity < 2 and self.log_file is None:
            yield
            return
        from artifacts.cli.log import logging_to

        with logging_to(self.log_file, self.warn, terminal=self.verbosity >= 2) as log:
            self._log = log
            try:
                yield
            finally:
                self._log = None


class _Stdin(io.RawIOBase):
    """Standard input as a file whose reads raise Cancelled once the work is stopped."""

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self._input = sys.stdin.fileno()
        self._woken, self._waker = os.pipe()

    def wake(self) -> None:
        os.write(self._waker, b"!")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        select.select([self._input, self._woken], [], [])
        self._cancel.check()
        return os.readv(self._input, [buffer])

    def close(self) -> None:
        if not self.closed:
            os.close(self._woken)
            os.close(self._waker)
        super().close()


def print_json(line: str) -> None:
    """One line on standard output, at once: a reader must not wait for the end."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _drop_stdout() -> None:
    """What is still in standard output's buffer cannot be written; the end of the process must not try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

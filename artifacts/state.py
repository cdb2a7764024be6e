"""What a staging folder remembers between processes: who works in it, and what each label was when it was published.

``<root>/.artifacts/`` holds ``lock`` (the pid of the process at work), ``state.json`` (one record a label, replaced by
rename), ``journal.jsonl`` (what happened since, one line each, appended before the files move), ``parts`` (what came
of large files before a process died; see ``artifacts.resuming``) and ``uploads`` (what of them was sent; see
``artifacts.journal``). Nothing in it is secret. Reading the state replays the journal, so a process that dies at any
line leaves a folder that the next one understands: a record's ``next`` is what was about to be published, and the files
themselves say whether it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from artifacts.errors import DiskError, FolderError, FolderInUse

FOLDER = ".artifacts"
PARTS = "parts"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one label was when it was last in step with its location.

    Attributes:
        location: where it came from and goes to, masked.
        signature: of its files then (see ``artifacts.archive.pack.Scan``); None when there were none to describe.
        empty: it started empty, because the location held nothing; the first upload must find that still so.
        format: how the object is packed, as ``artifacts.archive.unpack.Unpacked.format`` says.
        next: the record that an interrupted process was about to make true.
    """

    location: str
    mutable: bool = False
    etag: str | None = None
    version: str | None = None
    sha256: str | None = None
    signature: str | None = None
    empty: bool = False
    format: str | None = None
    object_bytes: int | None = None
    unpacked_bytes: int | None = None
    members: int | None = None
    next: Record | None = None

    def written(self) -> dict[str, Any]:
        """Its JSON object. What is as it is by default is left out: thousands are written, each several times."""
        values = {name: value for name, usual in _USUAL if (value := getattr(self, name)) is not usual}
        if self.next is not None:
            values["next"] = self.next.written()
        return values

    @classmethod
    def read(cls, values: dict[str, Any]) -> Record:
        """A record from its JSON object; unknown members are left out, as a later version may have written them."""
        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        if kept.get("next") is not None:
            kept["next"] = cls.read(kept["next"])
        return cls(**kept)


_USUAL = tuple((field.name, field.default) for field in fields(Record))


class State:
    """The records of one staging folder, and the right to change them.

    Args:
        root: the staging folder; made when missing.

    Raises:
        FolderError: the folder has content and is not one of ours, or was written by a later version.
        FolderInUse: another process works in it.
        DiskError: it cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER
        self.records: dict[str, Record] = {}
        self._lock: int | None = None
        self._journal: int | None = None

    def __enter__(self) -> Self:
        try:
            self._own()
            self._lock = self._locked()
            self.records = self._load()
            self._journal = os.open(
                self.folder / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            if os.fstat(self._journal).st_size:
                self._save()
        except OSError as error:
            self._release()
            if isinstance(error, FolderInUse):
                raise
            raise DiskError.of("use the folder", str(self.root), error) from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._save()
        except OSError as failure:
            raise DiskError.of("write", str(self.folder / "state.json"), failure) from failure
        finally:
            self._release()

    def put(self, label: str, record: Record | None) -> None:
        """Remember ``record`` for ``label`` (None: forget it), before this returns."""
        assert self._journal is not None
        line = json.dumps({"label": label, "record": None if record is None else record.written()}) + "\n"
        try:
            write_all(self._journal, line.encode())
        except OSError as error:
            raise DiskError.of("write", str(self.folder / "journal.jsonl"), error) from error
        _apply(self.records, label, record)

    def settle(self, label: str, signature: str | None) -> Record | None:
        """The record that is true of files with this ``signature``: the interrupted one where it was completed."""
        record = self.records.get(label)
        if record is None or record.next is None:
            return record
        record = record.next if record.next.signature == signature else replace(record, next=None)
        self.put(label, record)
        return record

    def _own(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.folder.is_dir() and any(self.root.iterdir()):
            raise FolderError(
                f"{self.root} is not empty and was not staged by this tool",
                hint="give a new or empty folder",
            )
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _locked(self) -> int:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.read(lock, 20).decode("ascii", "replace").strip()
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise FolderInUse(
                f"{self.root} is in use by process {pid or 'unknown'}", hint="wait until it has ended, then run again"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
        return lock

    def _load(self) -> dict[str, Record]:
        records: dict[str, Record] = {}
        with contextlib.suppress(FileNotFoundError):
            document = self._parsed(self.folder / "state.json", (self.folder / "state.json").read_bytes())
            if document.get("version") != VERSION:
                raise FolderError(
                    f"{self.folder / 'state.json'} has version {document.get('version')}, this tool reads {VERSION}",
                    hint="use the version that staged it, or a new folder",
                )
            for label, values in document["labels"].items():
                records[label] = Record.read(values)
        with contextlib.suppress(FileNotFoundError):
            *lines, torn = (self.folder / "journal.jsonl").read_bytes().split(b"\n")
            # What follows the last line break was being written when the process died: it never happened.
            del torn
            for line in lines:
                entry = self._parsed(self.folder / "journal.jsonl", line)
                values = entry["record"]
                _apply(records, entry["label"], None if values is None else Record.read(values))
        return records

    @staticmethod
    def _parsed(path: Path, text: bytes) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            document = json.loads(text)
            if isinstance(document, dict):
                return document
        raise FolderError(f"{path} is damaged", hint="stage into a new folder; the labels' own files are untouched")

    def _save(self) -> None:
        labels = {label: record.written() for label, record in self.records.items()}
        write_private(self.folder / "state.json", json.dumps({"version": VERSION, "labels": labels}).encode())
        assert self._journal is not None
        os.ftruncate(self._journal, 0)

    def _release(self) -> None:
        for descriptor in (self._journal, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._journal = self._lock = None


def _apply(records: dict[str, Record], label: str, record: Record | None) -> None:
    if record is None:
        records.pop(label, None)
    else:
        records[label] = record


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of ``content``, however often the system writes a part of it."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one rename, readable by its owner only; on disk before this returns."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(descriptor, 0o600)
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

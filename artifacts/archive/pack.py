"""A folder into a tar stream: what is there is listed first, then written, the same content always as the same bytes.

Members are sorted by the bytes of their stored name (``data-2``, ``data/``, ``data/x``) and owned by nobody (0, no
names), with the permission bits of their mode and their time in whole seconds, as ustar (POSIX.1-1988) with a pax
header only where ustar cannot say it. The stream ends with two zero blocks and is not padded to a record. Nothing is
followed: links are stored as links, and what is no file, folder or link is named instead.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self

from artifacts.archive.folders import Folders
from artifacts.archive.tree import leaves
from artifacts.archive.untar import BLOCK_BYTES
from artifacts.errors import DiskError
from artifacts.text import printable
from creds.store import Buffer

READ_BYTES: Final = 1 << 20
YIELD_BYTES: Final = 256 << 10
END: Final = bytes(2 * BLOCK_BYTES)

_MOST_OCTAL = 8**11  # a size or time of eleven octal digits is below this
_OCTAL_TIMES = range(_MOST_OCTAL * 1_000_000_000)
_NEW_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO put there since must not block
_SECOND = 1_000_000_000

Kind = Literal["file", "folder", "link"]


class Entry(NamedTuple):
    """One member to be, as ``lstat`` told it.

    Attributes:
        path: relative to the folder, as the bytes on disk.
        kind: what it is.
        mode: permission bits.
        size_bytes: a file's length; 0 for others.
        mtime_ns, ctime_ns, inode: as the system gives them.
        target: of a link.
    """

    path: bytes
    kind: Kind
    mode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    target: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a folder holds.

    Attributes:
        folder: the descriptor that was scanned; it must stay open until it is packed.
        entries: sorted by the bytes of their stored name; the folder itself is not among them.
        skipped: paths of what is no file, folder or link (FIFOs, sockets, devices).
        signature: SHA-256, in hex, over every entry's path, kind, mode, size, times, inode and target: while it stays
            the same, nothing was changed.
        size_bytes: the length of the packed stream, if nothing changes until then.
    """

    folder: int
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...]
    signature: str
    size_bytes: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to pack."""
        return not self.entries


def scan(folder: int, *, only: str | None = None) -> Scan:
    """List a folder, by descriptors alone.

    Args:
        folder: a descriptor of the folder, opened by the caller with ``O_DIRECTORY`` (and ``O_NOFOLLOW`` where its
            name cannot be trusted); stays open and the caller's.
        only: list just this entry of it (and what is beneath); None lists all.

    Raises:
        DiskError: something cannot be read; it is never left out.
    """
    entries: list[Entry] = []
    skipped: list[bytes] = []
    waiting = [b""]
    with Folders(folder) as folders:
        while waiting:
            path = waiting.pop()
            try:
                found = _list(folders.find(path), path, entries, skipped, only if not path else None)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not path:
                    raise DiskError.of("list folder", ".", error) from error
                continue  # it went away while others were listed
            except OSError as error:
                raise DiskError.of("list folder", _shown(path) if path else ".", error) from error
            waiting.extend(found)
    if only is not None and not entries and not skipped:
        missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise DiskError.of("list", _shown(os.fsencode(only)), missing)
    entries.sort(key=_stored_name)
    return Scan(
        folder=folder,
        entries=tuple(entries),
        skipped=tuple(os.fsdecode(path) for path in sorted(skipped)),
        signature=_signature(entries),
        size_bytes=sum(map(_member_bytes, entries)) + len(END),
    )


def signature_of_file(folder: int, name: bytes) -> str:
    """The signature that :func:`scan` gives of a folder with one file and nothing else, which is not looked for.

    Raises:
        DiskError: the file cannot be looked at.
    """
    try:
        status = os.lstat(name, dir_fd=folder)
    except OSError as error:
        raise DiskError.of("list", _shown(name), error) from error
    return _signature([_entry(name, "file", status, status.st_size, b"")])


def _stored_name(entry: Entry) -> bytes:
    return entry.path + b"/" if entry.kind == "folder" else entry.path


def _list(at: int, path: bytes, entries: list[Entry], skipped: list[bytes], only: str | None) -> list[bytes]:
    """Add what one folder holds; returns the folders among it."""
    prefix = path + b"/" if path else b""
    below = []
    with os.scandir(at) as listing:
        for item in listing:
            if only is not None and item.name != only:
                continue
            name = os.fsencode(item.name)
            try:
                status = item.stat(follow_symlinks=False)
                kind = stat.S_IFMT(status.st_mode)
                target = os.readlink(name, dir_fd=at) if kind == stat.S_IFLNK else b""
            except FileNotFoundError:
                continue  # gone since the folder was read
            whole = prefix + name
            size_bytes = 0
            if kind == stat.S_IFREG:
                word: Kind = "file"
                size_bytes = status.st_size
            elif kind == stat.S_IFDIR:
                word = "folder"
                below.append(whole)
            elif kind == stat.S_IFLNK:
                word = "link"
            else:
                skipped.append(whole)
                continue
            entries.append(_entry(whole, word, status, size_bytes, target))
    return below


def _entry(path: bytes, kind: Kind, status: os.stat_result, size_bytes: int, target: bytes) -> Entry:
    mode = status.st_mode & 0o777
    return Entry(path, kind, mode, size_bytes, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, target)


def _signature(entries: list[Entry]) -> str:
    digest = hashlib.sha256()
    for path, kind, mode, size, mtime, ctime, inode, target in entries:
        # Neither a path nor a target can hold a NUL, so no two lists of entries read the same.
        digest.update(b"%s\0%s\0%o %d %d %d %d\0%s\0" % (path, kind.encode(), mode, size, mtime, ctime, inode, target))
    return digest.hexdigest()


def _shown(path: bytes) -> str:
    return f"'{printable(os.fsdecode(path))}'"


def pack(found: Scan) -> Packing:
    """Write what was scanned as a tar stream.

    A file that became shorter is filled up with zeros to the size it was announced with, one that grew is cut there,
    one that was rewritten is taken as it is read: each is warned of as ``changed``. One that went away, or is no file
    any more, is left out and warned of as ``vanished``. A link that leads out of the folder is stored, and warned of
    as ``link-leaves``: unpacking will refuse it.

    Args:
        found: what :func:`scan` returned.

    Returns:
        An iterator of buffers, none of them used again; its ``warnings`` are complete when it has ended.

    Raises:
        DiskError: while iterating: something cannot be read.
    """
    return Packing(found)


class Packing:
    """The stream that :func:`pack` makes, and what was odd about it.

    Attributes:
        warnings: ``{"code": ..., "path": ...}`` in the order of the members.
    """

    def __init__(self, found: Scan) -> None:
        self.warnings: list[dict[str, str]] = []
        # The folder of the last file: most files share it with the next.
        self._parent: bytes | None = None
        self._at = found.folder
        self._buffers = self._pack(found)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Buffer:
        return next(self._buffers)

    def close(self) -> None:
        """Stop before the end; what is open is closed."""
        self._buffers.close()

    def _pack(self, found: Scan) -> Generator[Buffer, None, None]:
        parts: list[bytes] = []
        held = 0
        with Folders(found.folder) as folders:
            for entry in found.entries:
                if entry.kind != "file":
                    if entry.kind == "link" and leaves(entry.path, entry.target):
                        self._warn("link-leaves", entry)
                    parts.append(_header(entry))
                    held += BLOCK_BYTES
                elif (descriptor := self._open(folders, entry)) is not None:
                    try:
                        if entry.size_bytes < YIELD_BYTES:
                            parts += self._small(descriptor, entry)
                            held += BLOCK_BYTES + entry.size_bytes
                        else:
                            # What a large file holds goes out as it was read; all else is gathered.
                            for piece in self._large(descriptor, entry):
                                if len(piece) >= YIELD_BYTES:
                                    if parts:
                                        yield b"".join(parts)
                                        parts, held = [], 0
                                    yield piece
                                else:
                                    parts.append(piece)
                                    held += len(piece)
                    finally:
                        os.close(descriptor)
                if held >= YIELD_BYTES:
                    yield b"".join(parts)
                    parts, held = [], 0
        parts.append(END)
        yield b"".join(parts)

    def _warn(self, code: str, entry: Entry) -> None:
        self.warnings.append({"code": code, "path": os.fsdecode(entry.path)})

    def _open(self, folders: Folders, entry: Entry) -> int | None:
        """A descriptor of the file, or None when it went away or is a file no more."""
        parent, _, base = entry.path.rpartition(b"/")
        try:
            if parent != self._parent:
                self._parent = None
                self._at = folders.find(parent)
                self._parent = parent
            descriptor = os.open(base, _NEW_READ, dir_fd=self._at)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                self._warn("vanished", entry)
                return None
            raise DiskError.of("read", _shown(entry.path), error) from error
        return descriptor

    def _small(self, descriptor: int, entry: Entry) -> tuple[bytes, ...]:
        """A member that is read at once; nothing when it is no file any more."""
        size = entry.size_bytes
        try:
            content = os.read(descriptor, size) if size else b""
            while len(content) < size and (more := os.read(descriptor, size - len(content))):
                content += more
            status = os.fstat(descriptor)
        except OSError as error:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a folder, or a FIFO with nothing in it
                self._warn("vanished", entry)
                return ()
            raise DiskError.of("read", _shown(entry.path), error) from error
        if not stat.S_ISREG(status.st_mode):
            self._warn("vanished", entry)
            return ()
        if len(content) < size or not _same(status, entry):
            self._warn("changed", entry)
        return _header(entry), content.ljust(size + -size % BLOCK_BYTES, b"\0")

    def _large(self, descriptor: int, entry: Entry) -> Iterator[bytes]:
        """A member in pieces: header, content of exactly the announced size, padding."""
        size = left = entry.size_bytes
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._warn("vanished", entry)
                return
            yield _header(entry)
            while left and (piece := os.read(descriptor, min(left, READ_BYTES))):
                left -= len(piece)
                yield piece
            status = os.fstat(descriptor)
        except OSError as error:
            raise DiskError.of("read", _shown(entry.path), error) from error
        if left or not _same(status, entry):
            self._warn("changed", entry)
        while left:
            step = min(left, READ_BYTES)
            left -= step
            yield bytes(step)
        yield bytes(-size % BLOCK_BYTES)


def _same(status: os.stat_result, entry: Entry) -> bool:
    """Whether a file that was read is still the one that was scanned."""
    return (status.st_size, status.st_mtime_ns, status.st_ino) == (entry.size_bytes, entry.mtime_ns, entry.inode)


# Headers

_KINDS = {"file": b"0", "folder": b"5", "link": b"2"}
_OWNER = b"0000000\0" * 2
_NO_LINK = bytes(100)
_MAGIC = b"ustar\x0000" + bytes(64) + b"0000000\0" * 2  # no names of owners, device 0, 0
_NO_PREFIX = bytes(167)


def _member_bytes(entry: Entry) -> int:
    size = entry.size_bytes
    padded = size + -size % BLOCK_BYTES
    if (
        entry.path.isascii()
        and len(entry.path) < 100
        and not entry.target
        and entry.mtime_ns in _OCTAL_TIMES
        and size < _MOST_OCTAL
    ):
        return BLOCK_BYTES + padded
    return len(_header(entry)) + padded


def _header(entry: Entry) -> bytes:
    """A member's header: one block, before it a pax header where ustar cannot say it."""
    name = entry.path + b"/" if entry.kind == "folder" else entry.path
    size, mtime = entry.size_bytes, entry.mtime_ns // _SECOND
    target = entry.target
    records: list[tuple[bytes, bytes]] = []
    prefix = b""
    if len(name) > 100 or not name.isascii():
        split = _split(name)
        if split is not None:
            prefix, name = split
        else:
            records.append((b"path", name))
            name = _fallback(name)
    if target and (len(target) > 100 or (not target.isascii() and _is_utf8(target))):
        records.append((b"linkpath", target))
        target = _fallback(target)
    if size >= _MOST_OCTAL:
        records.append((b"size", b"%d" % size))
        size = 0
    if not 0 <= mtime < _MOST_OCTAL:
        records.append((b"mtime", b"%d" % mtime))
        mtime = 0
    block = _block(name, entry.mode, size, mtime, _KINDS[entry.kind], target, prefix)
    return _extended(records) + block if records else block


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as ustar holds them; None when only pax can say the name.

    POSIX has names in UTF-8 in pax headers; what is no UTF-8 has no standard form, and every reader takes the bytes
    of the ustar fields as they are.
    """
    if not name.isascii() and _is_utf8(name):
        return None
    if len(name) <= 100:
        return b"", name
    # The last slash that leaves a name of 100 bytes or less, and something before and after it.
    at = name.find(b"/", len(name) - 101, -1)
    if 0 < at <= 155:
        return name[:at], name[at + 1 :]
    return None


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fallback(name: bytes) -> bytes:
    """What a reader that knows no pax sees: the name's end, in ASCII."""
    return bytes(byte if byte < 128 else 0x3F for byte in name[-100:])


def _extended(records: list[tuple[bytes, bytes]]) -> bytes:
    if not all(_is_utf8(value) for _, value in records):
        records = [(b"hdrcharset", b"BINARY"), *records]
    payload = b"".join(_record(key, value) for key, value in records)
    header = _block(b"././@PaxHeader", 0o644, len(payload), 0, b"x", b"", b"")
    return header + payload + bytes(-len(payload) % BLOCK_BYTES)


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value``: the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(name: bytes, mode: int, size: int, mtime: int, kind: bytes, target: bytes, prefix: bytes) -> bytes:
    before = b"%s%07o\0%s%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, _OWNER, size, mtime)
    after = b"%s%s%s%s" % (
        kind,
        target.ljust(100, b"\0") if target else _NO_LINK,
        _MAGIC,
        prefix.ljust(167, b"\0") if prefix else _NO_PREFIX,
    )
    # An Adler-32 of fewer than 256 bytes holds their sum (plus 1) below its modulus; the checksum is eight spaces.
    total = (
        (zlib.adler32(before) & 0xFFFF)
        + (zlib.adler32(after[:180]) & 0xFFFF)
        + (zlib.adler32(after[180:]) & 0xFFFF)
        - 3
        + 256
    )
    return b"%s%06o\0 %s" % (before, total, after)

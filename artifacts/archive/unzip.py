"""Zip archives, from a file that can be sought: what the central directory lists, with Unix modes, links and times."""

from __future__ import annotations

import calendar
import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Final

from artifacts.archive.formats import CHUNK_BYTES
from artifacts.archive.tree import Stream, Tree, shown
from artifacts.errors import CorruptArchive, DiskError, UnsafeMember, UnsupportedArchive

MAX_DIRECTORY_BYTES: Final = 64 << 20  # some 600,000 members

_SECOND = 1_000_000_000
_UTF8_NAME, _ENCRYPTED, _PATCH, _STRONG, _MASKED = 0x800, 0x1, 0x20, 0x40, 0x2000
_UNIX = (3, 19)  # the systems whose attributes hold a mode: Unix and macOS


def unzip(file: IO[bytes], tree: Tree) -> None:
    """Fill the tree with a zip's members.

    Raises:
        CorruptArchive, UnsafeMember, UnsupportedArchive, LimitExceeded, DiskError: see ``unpack``.
    """
    try:
        with _Bounded(file.fileno()) as bounded, zipfile.ZipFile(bounded) as archive:
            for entry in archive.infolist():
                _zip_member(archive, entry, tree)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeDecodeError) as error:
        raise CorruptArchive(f"the zip is corrupt: {error}") from error
    except NotImplementedError as error:
        raise UnsupportedArchive(f"the zip uses what is not read here: {error}") from error


class _Bounded(io.FileIO):
    """The file as ``zipfile`` reads it: its directory is read at once, and takes ten times its size as objects."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "rb", closefd=False)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise UnsupportedArchive(
                f"the zip has a directory of {size} bytes; at most {MAX_DIRECTORY_BYTES} are read",
                hint="pack it as a tar",
            )
        return super().read(size)


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, tree: Tree) -> None:
    name = _zip_name(entry)
    if entry.flag_bits & (_ENCRYPTED | _STRONG | _MASKED):
        raise UnsupportedArchive(f"member {shown(name)} is encrypted")
    if entry.flag_bits & _PATCH:
        raise UnsupportedArchive(f"member {shown(name)} is a patch")
    mtime_ns = _zip_time(entry) * _SECOND
    mode = entry.external_attr >> 16 if entry.create_system in _UNIX else 0
    kind = stat.S_IFMT(mode)
    if name.endswith(b"/") or kind == stat.S_IFDIR:
        tree.add_folder(name, mode & 0o777 or 0o755, mtime_ns)
    elif kind == stat.S_IFLNK:
        if entry.file_size > tree.limits.max_name_bytes:
            raise UnsafeMember(
                f"member {shown(name)} is a link to a path of {entry.file_size} bytes; "
                f"at most {tree.limits.max_name_bytes} are allowed (max_name_bytes)"
            )
        tree.add_symlink(name, b"".join(_zip_content(archive, entry)), mtime_ns)
    elif kind in (stat.S_IFREG, 0):
        stream = Stream(_zip_content(archive, entry))
        tree.add_file(name, mode & 0o777 or 0o644, mtime_ns, entry.file_size, stream)
        if stream.up_to(1):
            raise CorruptArchive(f"member {shown(name)} is longer than the zip says")
    else:
        raise UnsafeMember(f"member {shown(name)} is no file, folder or link: mode {mode:o}")


def _zip_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    # zipfile expands all of a bzip2 or LZMA input it was given at once: it is given little.
    simple = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    step = CHUNK_BYTES if simple else 4096
    if entry.header_offset < 0:  # zipfile would seek there
        raise CorruptArchive("the zip is corrupt: a member lies before its beginning")
    content: Any = archive.open(entry)  # its stub lacks read1
    with content:
        while True:
            try:
                piece = content.read1(step)
            except (lzma.LZMAError, OSError) as error:
                if isinstance(error, OSError) and error.errno:
                    raise DiskError.of("read", "a zip's copy", error) from error
                raise CorruptArchive(f"the zip is corrupt: {error}") from error
            if not piece:
                return
            yield piece


def _zip_name(entry: zipfile.ZipInfo) -> bytes:
    """The name's own bytes, as a Unix writer stored them; from elsewhere the name as UTF-8."""
    name = entry.orig_filename
    if entry.flag_bits & _UTF8_NAME:
        return name.encode()
    raw = name.encode("cp437")
    return raw if entry.create_system in _UNIX else name.encode()


def _zip_time(entry: zipfile.ZipInfo) -> int:
    """Seconds since 1970: the extended timestamp where there is one, else the DOS time, taken as UTC."""
    extra = entry.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 0x5455 and size >= 5 and len(extra) >= 9 and extra[4] & 1:
            return int.from_bytes(extra[5:9], "little", signed=True)
        extra = extra[4 + size :]
    year, month, day, hour, minute, second = entry.date_time
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return 0
    return calendar.timegm((year, month, day, hour, minute, second))

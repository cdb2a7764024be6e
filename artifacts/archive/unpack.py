"""A stream of buffers into a folder: tar and zip, compressed or not, and single files."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from artifacts.archive.formats import (
    Compression,
    compression_of_name,
    decompress,
    in_thread,
    is_tar_name,
    sniff_compression,
    without_suffix,
)
from artifacts.archive.tree import Stream, Tree, only_file, shown
from artifacts.archive.untar import BLOCK_BYTES, checksum_holds, untar
from artifacts.errors import UnsafeMember, UnsupportedArchive
from artifacts.limits import Budget
from artifacts.text import printable
from creds.store import Buffer

_RECORD_BYTES: Final = 20 * BLOCK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What was unpacked.

    Attributes:
        members: files, folders and links.
        unpacked_bytes: of all files, as they read.
        warnings: what a person should know: ``{"code": ..., "path": ...}``.
        format: ``tar``, ``zip``, ``tar+gzip`` and so on; ``gzip`` and so on for one compressed file; ``file`` for a
            plain one.
    """

    members: int
    unpacked_bytes: int
    warnings: list[dict[str, str]] = field(default_factory=list)
    format: str


def unpack(
    buffers: Iterable[Buffer], into: int, *, name: str, budget: Budget, object_bytes: int | None = None
) -> Unpacked:
    """Unpack an archive, read as a stream, into an empty folder.

    What the bytes are is decided by the bytes; the name only where they leave it open (an empty tar is nothing but
    zeros). A compressed file that holds no tar becomes one file, its name without the suffix. A zip cannot be read as a
    stream: it is first copied to a file without a name on the folder's own file system, within the budget.

    The stream is read to its very end. When this raises, what was charged for bytes is given back to the budget and
    the folder holds a part of the archive: the caller removes it.

    Args:
        buffers: the object's bytes; iterated in another thread while an archive is decompressed.
        into: a descriptor of the folder; stays open.
        name: the last segment of the object's key.
        budget: charged before anything is written.
        object_bytes: the object's size, for the limit on the ratio; None leaves that limit out.

    Raises:
        UnsafeMember: a member would leave the folder, is no file, folder or link, or has a name beyond the limits.
        UnsupportedArchive: no archive, or one of a kind that is not read.
        CorruptArchive: broken, or cut short.
        LimitExceeded: the budget or a limit was passed.
        DiskError: the system refused to create or write; ``errno`` says why.
    """
    stream = Stream(buffers)
    with Tree(into, budget, object_bytes).settled() as tree:
        format_ = _unpack(stream, tree, name)
    return _unpacked(tree, format_)


def write_file(buffers: Iterable[Buffer], into: int, name: str, budget: Budget) -> Unpacked:
    """Write an object as it is, as one file of an empty folder.

    Args:
        buffers: the object's bytes.
        into: a descriptor of the folder; stays open.
        name: the file's name, the last segment of the object's key.
        budget: charged before anything is written, and given back when this raises.

    Raises:
        UnsafeMember: the name is no plain file name.
        LimitExceeded: the budget was passed.
        DiskError: the system refused to create or write; ``errno`` says why.
    """
    return Unpacked(members=1, unpacked_bytes=only_file(file_name(name), buffers, into, budget), format="file")


def _unpacked(tree: Tree, format_: str) -> Unpacked:
    return Unpacked(members=tree.members, unpacked_bytes=tree.bytes, warnings=tree.warnings, format=format_)


def file_name(name: str) -> bytes:
    """The last segment of a key as a file's name.

    Raises:
        UnsafeMember: it is none.
    """
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise UnsafeMember(f"{printable(name)!r} cannot be the name of a file") from error
    if encoded in (b"", b".", b"..") or b"/" in encoded or b"\0" in encoded:
        raise UnsafeMember(f"{shown(encoded)} cannot be the name of a file")
    return encoded


# What is it?

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_SEEN = {
    b"7z\xbc\xaf'\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b'\x04"M\x18': "an lz4 stream",
    b"\x1f\x9d": "a compress (.Z) stream",
    b"LZIP": "an lzip stream",
    b"070701": "a cpio archive",
    b"070707": "a cpio archive",
    b"!<arch>\n": "an ar archive",
}


def _unpack(stream: Stream, tree: Tree, name: str) -> str:
    head = stream.peek(BLOCK_BYTES)
    # A tar begins with its first member's name, which may be anything, another format's magic bytes too.
    first_member = len(head) == BLOCK_BYTES and any(head) and checksum_holds(head)
    compression = None if first_member else sniff_compression(head)
    if compression is None:
        if head.startswith(_ZIP_MAGIC) and not first_member:
            with tree.spool(stream) as file:
                from artifacts.archive.unzip import unzip

                unzip(file, tree)
            return "zip"
        if not _is_tar(stream, name):
            raise _no_archive(head, name)
        untar(stream, tree)
        return "tar"
    unwanted = threading.Event()
    with in_thread(decompress(_until(unwanted, stream.rest()), compression)) as expanded:
        try:
            return _expanded(Stream(expanded), tree, name, compression)
        finally:
            unwanted.set()


def _until(unwanted: threading.Event, buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """Buffers until nobody wants them: what expands to nothing would keep its thread busy for ever."""
    for buffer in buffers:
        if unwanted.is_set():
            return
        yield buffer


def _expanded(inside: Stream, tree: Tree, name: str, compression: Compression) -> str:
    if _is_tar(inside, name):
        untar(inside, tree)
        return f"tar+{compression}"
    if is_tar_name(name):
        raise _no_archive(inside.peek(BLOCK_BYTES), name)
    tree.add_stream(file_name(without_suffix(name)), inside)
    return compression


def _is_tar(stream: Stream, name: str) -> bool:
    head = stream.peek(BLOCK_BYTES)
    if any(head):
        if head[257:262] == b"ustar" or (len(head) == BLOCK_BYTES and checksum_holds(head)):
            return True
        return is_tar_name(name) and len(head) < BLOCK_BYTES
    if is_tar_name(name):
        return True
    # Nothing but zeros is an empty tar, unless the name promises one compressed file or there is more than a record.
    record = stream.peek(_RECORD_BYTES + 1)
    return (
        compression_of_name(name) is None
        and BLOCK_BYTES <= len(record) <= _RECORD_BYTES
        and len(record) % BLOCK_BYTES == 0
        and not any(record)
    )


def _no_archive(head: bytes, name: str) -> UnsupportedArchive:
    if not head:
        seen = "it is empty"
    else:
        known = next((what for magic, what in _SEEN.items() if head.startswith(magic)), None)
        seen = f"it is {known}" if known else f"it begins with {head[:8]!r}"
    return UnsupportedArchive(
        f"'{printable(name)}' is no archive that can be unpacked: {seen}",
        hint="tar, tar.gz, tar.bz2, tar.xz, tar.zst and zip can; with unpack set to false it is stored as it is",
    )

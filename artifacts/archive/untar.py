"""Tar streams: ustar, GNU and pax with their long names and sparse files, and V7.

Almost every member has an ordinary header, which is matched as a whole; one that differs is read field by field. The
layouts are those of POSIX (IEEE Std 1003.1, "pax - portable archive interchange"), of GNU tar's manual ("Basic Tar
Format", "Storing Sparse Files") and of V7 tar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from zlib import adler32 as _adler32

from artifacts.archive.tree import Ordinary, Stream, Tree, cut_short, shown
from artifacts.errors import CorruptArchive, UnsafeMember, UnsupportedArchive

BLOCK_BYTES: Final = 512
MAX_EXTENSION_BYTES: Final = 16 << 20  # of one extended header: real ones hold a few names

_MOST_AT_ONCE = 64
_SECOND = 1_000_000_000
_FURTHEST_SECONDS = 1 << 40  # some 35,000 years on either side of 1970; file systems cut it to what they hold
_ZEROS = bytes(BLOCK_BYTES)

_ORDINARY = re.compile(
    rb"(?=([^\0]{1,100})).{100}"  # name
    rb"([0-7]{6}[0-7 ])\0.{16}"  # mode, uid, gid
    rb"([0-7]{11})[ \0]"  # size
    rb"([0-7]{11})[ \0]"  # mtime
    rb"([0-7]{6})\0 "  # checksum
    rb"([05\0]).{100}"  # kind, link
    rb"(?:ustar\0.{82}(?=([^\0]{0,155})).{167}|ustar  \0.{247})",  # POSIX with its prefix, or GNU
    re.DOTALL,
)
"""What GNU tar, Python, Go and this toolkit write for almost every member; whatever differs is read field by field."""

_ORDINARY_KINDS = b"05\0"

_KINDS = {
    b"1": "hard link",
    b"3": "character device",
    b"4": "block device",
    b"6": "FIFO",
    b"D": "GNU dump folder",
    b"M": "part of another volume",
    b"N": "old GNU name table",
    b"V": "volume label",
}
_OVERRIDES = (b"path", b"linkpath", b"size", b"mtime")
_OCTAL = re.compile(rb" *([0-7]*) *(?:\0.*)?", re.DOTALL)
_DECIMAL_TIME = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,9}) ")


def _byte_sum(block: bytes) -> int:
    """The sum of a header's bytes: an Adler-32 of 256 bytes holds theirs (plus 1) below its modulus, and is fast."""
    return (_adler32(block[:256]) & 0xFFFF) + (_adler32(block[256:]) & 0xFFFF) - 2


def checksum_holds(block: bytes) -> bool:
    """Whether a block is a tar header that says what its bytes add up to."""
    match = _OCTAL.fullmatch(block[148:156])
    if match is None or not match[1]:
        return False
    stored = int(match[1], 8)
    # The field itself counts as eight spaces. Some old writers summed signed bytes.
    unsigned = _byte_sum(block) - sum(block[148:156]) + 256
    if stored == unsigned:
        return True
    signed = block[:148] + b" " * 8 + block[156:]
    return stored == sum(byte - 256 if byte > 127 else byte for byte in signed)


def _number(raw: bytes, what: str) -> int:
    """A numeric field: octal digits, or (GNU) base 256 when the first byte is 0x80 or 0xff."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    if raw[0] == 0xFF:
        return int.from_bytes(raw, "big", signed=True)
    match = _OCTAL.fullmatch(raw)
    if match is None:
        raise CorruptArchive(f"a tar header's {what} is no number: {raw!r}")
    return int(match[1] or b"0", 8)


def _text(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


@dataclass(slots=True)
class _Ahead:
    """What extended headers say about the member that follows them."""

    name: bytes | None = None
    link: bytes | None = None
    pax: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[bytes, bytes]] = field(default_factory=list)
    any: bool = False


def untar(stream: Stream, tree: Tree) -> None:
    """Read a tar stream to its end and fill the tree with its members.

    Raises:
        CorruptArchive, UnsafeMember, UnsupportedArchive, LimitExceeded, DiskError: see ``unpack``.
    """
    everywhere: dict[bytes, bytes] = {}
    ahead = _Ahead()
    while True:
        if not ahead.any and not everywhere:
            while members := _ordinary(stream):
                tree.add_ordinary(members)
        block = stream.up_to(BLOCK_BYTES)
        if block == _ZEROS:
            break
        if len(block) < BLOCK_BYTES:
            raise cut_short()
        if not checksum_holds(block):
            raise CorruptArchive("a tar header's checksum does not hold: the archive is corrupt")
        kind = block[156:157]
        if kind in b"LKxXg":
            _extend(kind, block, stream, tree, ahead, everywhere)
        else:
            _member(kind, block, stream, tree, ahead, everywhere)
            ahead = _Ahead()
    if ahead.any:
        raise CorruptArchive("the archive ends between an extended header and its member")
    _drain(stream, tree)


def _ordinary(stream: Stream) -> list[Ordinary]:
    """Take the members that come next, as far as their headers are ordinary and they lie in one buffer; maybe none."""
    # There may be millions of them: written out rather than composed, each call would be a tenth of one.
    members: list[Ordinary] = []
    view, at = stream.window()
    end = len(view)
    if end - at < BLOCK_BYTES or view[at + 156] not in _ORDINARY_KINDS:  # what follows may all be extended
        return members
    last_mode = last_mtime = b""
    permissions = mtime_ns = 0
    while len(members) < _MOST_AT_ONCE and (match := _ORDINARY.match(view, at)) is not None:
        name, mode, size, mtime, checksum, kind, prefix = match.groups()
        start = at + BLOCK_BYTES
        # Each of the three is 1 more than a sum; the field ends in a NUL and a space and counts as eight spaces.
        if (
            (_adler32(view[at : at + 256]) & 0xFFFF)
            + (_adler32(view[at + 256 : start]) & 0xFFFF)
            - (_adler32(checksum) & 0xFFFF)
            + 223
        ) != int(checksum, 8):
            break
        if prefix:
            name = prefix + b"/" + name
        if mode != last_mode:
            last_mode, permissions = mode, int(mode, 8)
        if mtime != last_mtime:
            last_mtime, mtime_ns = mtime, int(mtime, 8) * _SECOND
        if kind == b"5":
            members.append((name, permissions, mtime_ns, None))
            at = start
            continue
        stop = start + int(size, 8)
        following = stop + (start - stop) % BLOCK_BYTES
        if following > end or name[-1] == 0x2F:
            break
        members.append((name, permissions, mtime_ns, view[start:stop]))
        at = following
    stream.move_to(at)
    return members


def _drain(stream: Stream, tree: Tree) -> None:
    """Read what follows the end marker: zeros up to a full record, and whoever taps the stream sees all of it."""
    warned = False
    for buffer in stream.rest():
        tree.pass_over(len(buffer))
        if not warned and bytes(buffer).strip(b"\0"):
            warned = True
            tree.warnings.append({"code": "data-after-end", "path": ""})


def _payload(block: bytes, stream: Stream, tree: Tree) -> bytes:
    size = _number(block[124:136], "size")
    if not 0 <= size <= MAX_EXTENSION_BYTES:
        raise CorruptArchive(f"an extended tar header of {size} bytes; at most {MAX_EXTENSION_BYTES} are read")
    tree.pass_over(size + BLOCK_BYTES)
    payload = stream.exact(size)
    stream.skip(-size % BLOCK_BYTES)
    return payload


def _extend(
    kind: bytes, block: bytes, stream: Stream, tree: Tree, ahead: _Ahead, everywhere: dict[bytes, bytes]
) -> None:
    payload = _payload(block, stream, tree)
    if kind == b"L":
        ahead.name = _text(payload)
    elif kind == b"K":
        ahead.link = _text(payload)
    else:
        for key, value in _records(payload):
            known = key in _OVERRIDES or key.startswith(b"GNU.sparse.")
            if not known:
                continue
            if kind == b"g":
                everywhere[key] = value
            else:
                ahead.pax[key] = value
                if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                    ahead.sparse.append((key, value))
    ahead.any = ahead.any or kind != b"g"


def _records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The ``length key=value`` lines of a pax header."""
    at = 0
    while at < len(payload):
        match = _PAX_LENGTH.match(payload, at)
        if match is None:
            raise CorruptArchive("a pax header's record has no length")
        end = at + int(match[1])
        key, equals, value = payload[match.end() : end - 1].partition(b"=")
        if end > len(payload) or end <= match.end() or payload[end - 1] != 0x0A or not equals or not key:
            raise CorruptArchive("a pax header's record does not end where it says")
        yield key, value
        at = end


def _member(
    kind: bytes, block: bytes, stream: Stream, tree: Tree, ahead: _Ahead, everywhere: dict[bytes, bytes]
) -> None:
    pax = {key: value for key, value in {**everywhere, **ahead.pax}.items() if value}
    name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or ahead.name or _header_name(block)
    mode = _number(block[100:108], "mode") & 0o7777
    size = _pax_count(pax[b"size"], "size") if b"size" in pax else _number(block[124:136], "size")
    mtime_ns = _mtime_ns(pax.get(b"mtime"), block)
    if size < 0:
        raise CorruptArchive(f"member {shown(name)} has a size below zero")
    if kind in (b"0", b"\0", b"7"):
        if name.endswith(b"/"):
            if size:
                raise CorruptArchive(f"member {shown(name)} is named as a folder and has content")
            tree.add_folder(name, mode, mtime_ns)
        elif any(key.startswith(b"GNU.sparse.") for key in pax):
            _pax_sparse(name, mode, mtime_ns, size, pax, ahead.sparse, stream, tree)
        else:
            tree.add_file(name, mode, mtime_ns, size, stream)
            stream.skip(-size % BLOCK_BYTES)
    elif kind == b"S":
        _gnu_sparse(name, mode, mtime_ns, size, block, stream, tree)
    elif kind == b"5":
        tree.add_folder(name, mode, mtime_ns)
    elif kind in (b"1", b"2"):
        # Their size is that of what they lead to; no content follows.
        link = pax.get(b"linkpath") or ahead.link or _text(block[157:257])
        if kind == b"2":
            tree.add_symlink(name, link, mtime_ns)
        else:
            tree.add_hard_link(name, link)
    else:
        what = _KINDS.get(kind, f"kind {kind!r}")
        raise UnsafeMember(f"member {shown(name)} is no file, folder or link: {what}")


def _header_name(block: bytes) -> bytes:
    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _mtime_ns(pax: bytes | None, block: bytes) -> int:
    if pax is None:
        mtime_ns = _number(block[136:148], "time") * _SECOND
    else:
        match = _DECIMAL_TIME.fullmatch(pax)
        if match is None:
            raise CorruptArchive(f"a pax header's time is no number: {pax[:40]!r}")
        fraction = (match[3] or b"")[:9].ljust(9, b"0")
        mtime_ns = int(match[2]) * _SECOND + int(fraction)
        mtime_ns = -mtime_ns if match[1] else mtime_ns
    if abs(mtime_ns) > _FURTHEST_SECONDS * _SECOND:
        raise CorruptArchive(f"a member's time lies {abs(mtime_ns) // _SECOND} seconds from 1970")
    return mtime_ns


def _pax_count(raw: bytes, what: str) -> int:
    if not raw.isdigit() or len(raw) > 20:
        raise CorruptArchive(f"a pax header's {what} is no number: {raw[:40]!r}")
    return int(raw)


def _pax_sparse(
    name: bytes,
    mode: int,
    mtime_ns: int,
    size: int,
    pax: dict[bytes, bytes],
    listed: list[tuple[bytes, bytes]],
    stream: Stream,
    tree: Tree,
) -> None:
    """GNU's sparse formats 0.0 (repeated records), 0.1 (one record) and 1.0 (a map before the content)."""
    stored = size
    if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor", b"0") == b"0":
        if b"GNU.sparse.realsize" not in pax:
            raise CorruptArchive(f"member {shown(name)} is sparse and does not tell its size")
        numbers, used = _sparse_map(stream, size, name)
        tree.pass_over(used)
        stored -= used
        real = _pax_count(pax[b"GNU.sparse.realsize"], "size")
    elif b"GNU.sparse.major" in pax:
        raise UnsupportedArchive(f"member {shown(name)} is sparse in a format that is not known")
    else:
        if b"GNU.sparse.map" in pax:
            numbers = [_pax_count(raw, "map") for raw in pax[b"GNU.sparse.map"].split(b",")]
        else:
            wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes") * (len(listed) // 2)
            if len(listed) % 2 or tuple(key for key, _ in listed) != wanted:
                raise CorruptArchive(f"member {shown(name)} has a sparse map that does not add up")
            numbers = [_pax_count(value, "map") for _, value in listed]
        real = _pax_count(pax.get(b"GNU.sparse.size", b""), "size")
    if len(numbers) % 2:
        raise CorruptArchive(f"member {shown(name)} has a sparse map that does not add up")
    _sparse(name, mode, mtime_ns, real, stored, list(zip(numbers[::2], numbers[1::2], strict=True)), stream, tree)


def _sparse_map(stream: Stream, size: int, name: bytes) -> tuple[list[int], int]:
    """The numbers of a 1.0 map, one a line, and the bytes it takes: whole blocks."""
    text = b""
    used = 0
    numbers: list[int] = []
    wanted = 1
    while len(numbers) < wanted:
        if used + BLOCK_BYTES > size or used >= MAX_EXTENSION_BYTES:
            raise CorruptArchive(f"member {shown(name)} has a sparse map that does not add up")
        *lines, text = (text + stream.exact(BLOCK_BYTES)).split(b"\n")
        used += BLOCK_BYTES
        for line in lines:
            if len(numbers) < wanted:
                numbers.append(_pax_count(line, "map"))
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
    return numbers[1:], used


def _gnu_sparse(name: bytes, mode: int, mtime_ns: int, size: int, block: bytes, stream: Stream, tree: Tree) -> None:
    """The old GNU format: four pieces in the header, 21 more in each block that follows it."""
    pieces = _gnu_pieces(block, 386, 4)
    more = block[482]
    real = _number(block[483:495], "size")
    while more:
        tree.pass_over(BLOCK_BYTES)
        if len(pieces) * 24 > MAX_EXTENSION_BYTES:
            raise CorruptArchive(f"member {shown(name)} has a sparse map that does not add up")
        block = stream.exact(BLOCK_BYTES)
        pieces += _gnu_pieces(block, 0, 21)
        more = block[504]
    _sparse(name, mode, mtime_ns, real, size, pieces, stream, tree)


def _gnu_pieces(block: bytes, at: int, most: int) -> list[tuple[int, int]]:
    pieces = []
    for start in range(at, at + 24 * most, 24):
        if not block[start + 12]:
            break
        pieces.append((_number(block[start : start + 12], "map"), _number(block[start + 12 : start + 24], "map")))
    return pieces


def _sparse(
    name: bytes,
    mode: int,
    mtime_ns: int,
    real: int,
    stored: int,
    pieces: list[tuple[int, int]],
    stream: Stream,
    tree: Tree,
) -> None:
    end = 0
    for offset, count in pieces:
        if offset < end or count < 0:
            raise CorruptArchive(f"member {shown(name)} has a sparse map that does not add up")
        end = offset + count
    if end > real or real >= 1 << 63 or sum(count for _, count in pieces) != stored:
        raise CorruptArchive(f"member {shown(name)} has a sparse map that does not add up")
    tree.add_sparse(name, mode, mtime_ns, real, pieces, stream)
    stream.skip(-stored % BLOCK_BYTES)

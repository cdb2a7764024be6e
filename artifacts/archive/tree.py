"""The folder that an archive is unpacked into, member by member, and the stream that its bytes come from.

The archive is hostile until it is proved otherwise. A member is created relative to the descriptor of its folder, which
was reached without following a link; a file is always a new one; links are proved to stay inside; what would leave the
folder is an error and never skipped. Bytes are charged to the budget before they are written, so nothing is cut to fit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Final

from artifacts.archive.folders import Folders
from artifacts.errors import ArchiveError, CorruptArchive, DiskError, LimitExceeded, UnsafeMember
from artifacts.limits import Budget, Limits
from artifacts.text import printable
from creds.store import Buffer

FREE_OVERHEAD_BYTES: Final = 64 << 20  # read and not kept, whatever the budget

Ordinary = tuple[bytes, int, int, memoryview | None]
"""A file or folder: its name, mode, time in nanoseconds, and content; None is a folder's."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_BYTES = memoryview(b"")
_DOTS = (b"", b".", b"..")
_MOST_HOPS = 40  # how many links Linux follows in one path before it gives up (MAXSYMLINKS)


def shown(name: bytes) -> str:
    """A member's name for a message: quoted, printable, not endless."""
    text = printable(os.fsdecode(name))
    return f"'{text}'" if len(text) <= 200 else f"'{text[:100]}...{text[-97:]}'"


class Stream:
    """Buffers in order, taken in pieces of any size without copying where a piece lies in one buffer."""

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        self._buffers = iter(buffers)
        self._view = _NO_BYTES
        self._at = 0

    def _advance(self) -> bool:
        for buffer in self._buffers:
            if len(buffer):
                self._view = memoryview(buffer)
                self._at = 0
                return True
        self._view = _NO_BYTES
        self._at = 0
        return False

    def take(self, count: int) -> memoryview:
        """At least one byte and at most ``count``; nothing at the end."""
        at = self._at
        if at >= len(self._view):
            if not self._advance():
                return _NO_BYTES
            at = 0
        piece = self._view[at : at + count]
        self._at = at + len(piece)
        return piece

    def window(self) -> tuple[memoryview, int]:
        """The buffer at hand and where in it the stream stands: to look ahead, and to go on with :meth:`move_to`."""
        if self._at >= len(self._view):
            self._advance()
        return self._view, self._at

    def move_to(self, at: int) -> None:
        """Go on at a place in the buffer that :meth:`window` gave."""
        self._at = at

    def up_to(self, count: int) -> bytes:
        """``count`` bytes, fewer only at the end."""
        piece = self._view[self._at : self._at + count]
        self._at += len(piece)
        if len(piece) == count:
            return bytes(piece)
        parts = [piece]
        count -= len(piece)
        while count and (piece := self.take(count)):
            parts.append(piece)
            count -= len(piece)
        return b"".join(parts)

    def exact(self, count: int) -> bytes:
        """``count`` bytes; a stream that ends before them was cut short."""
        piece = self.up_to(count)
        if len(piece) < count:
            raise cut_short()
        return piece

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes (fewer only at the end), which stay to be taken."""
        head = self.up_to(count)
        if self._at >= count:  # it came from this one buffer
            self._at -= count
        else:
            self._view = memoryview(head + self._view[self._at :])
            self._at = 0
        return head

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes; a stream that ends before them was cut short."""
        while count:
            piece = self.take(count)
            if not piece:
                raise cut_short()
            count -= len(piece)

    def rest(self) -> Iterator[Buffer]:
        """Everything that is left, buffer by buffer."""
        while self._at < len(self._view) or self._advance():
            view = self._view[self._at :]
            self._at = len(self._view)
            yield view


def cut_short() -> CorruptArchive:
    """The error for an archive whose end is missing."""
    return CorruptArchive("the archive ends before its end marker: it is cut short")


class Tree:
    """The folder that is filled, and what must be known of it until it is whole."""

    def __init__(self, into: int, budget: Budget, object_bytes: int | None) -> None:
        self._into = into
        self._budget = budget
        self.limits = budget.limits
        self._object_bytes = object_bytes or 0
        # When the object's size is not known, the ratio is never looked at.
        self._ratio_from = sys.maxsize if object_bytes is None else self.limits.most_unpacked_bytes(object_bytes)
        self._folders = Folders(into)
        self._links: dict[bytes, bytes] = {}
        self._folder_times: dict[bytes, int] = {}
        # The bits of a mode that creating a file has been seen to keep or lose: the umask need not be asked for.
        self._kept = self._lost = 0
        # The folder of the last member, as the archive wrote it and as it is: most members share it with the next.
        self._raw: bytes | None = None
        self._parent = b""
        self._at = into
        self._overhead_bytes = 0
        self.members = 0
        self.bytes = 0
        self.warnings: list[dict[str, str]] = []

    @contextlib.contextmanager
    def settled(self) -> Iterator[Tree]:
        """Fill the tree in the ``with`` block: afterwards it is whole, or its bytes are given back."""
        try:
            with self._folders:
                yield self
                self._check_links()
                self._set_folder_times()
        except BaseException:
            self._budget.give_bytes(self.bytes)
            raise

    def charge(self, count: int, members: int = 0) -> None:
        """Account for bytes and members that are about to be written."""
        self.members += members
        self.bytes += count
        self._budget.take(count, members)
        if self.bytes + self._overhead_bytes > self._ratio_from:
            self._check_ratio()

    def _check_ratio(self) -> None:
        self._budget.check_ratio(self.bytes + self._overhead_bytes, self._object_bytes)

    def pass_over(self, count: int) -> None:
        """Account for bytes that are read and not kept: they cost no disk, but endless ones are a bomb as well."""
        self._overhead_bytes += count
        allowed = max(self._budget.max_bytes, FREE_OVERHEAD_BYTES)
        if self._overhead_bytes > allowed:
            raise LimitExceeded(
                f"the archive holds more than {allowed} bytes beside its members ({self._budget.name})",
                limit=self._budget.name,
                allowed=allowed,
                seen=self._overhead_bytes,
            )
        if self.bytes + self._overhead_bytes > self._ratio_from:
            self._check_ratio()

    def spool(self, stream: Stream) -> IO[bytes]:
        """Copy a stream to a file without a name beside the members; the budget holds it while it is written."""
        taken = 0
        file = self._unnamed()
        try:
            for buffer in stream.rest():
                taken += len(buffer)
                self._budget.take_bytes(len(buffer))
                _write(file.fileno(), memoryview(buffer), b"a zip's copy")
        except BaseException:
            file.close()
            raise
        finally:
            self._budget.give_bytes(taken)
        return file

    def _unnamed(self) -> IO[bytes]:
        try:
            try:
                descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._into)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
                # This file system has no unnamed files: one whose name is gone at once does the same.
                name = f".zip-{os.urandom(8).hex()}"
                descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._into)
                os.unlink(name, dir_fd=self._into)
        except OSError as error:
            raise DiskError.of("create", "a zip's copy", error) from error
        return os.fdopen(descriptor, "r+b")

    # Names

    def normal(self, name: bytes) -> bytes:
        """A member's path with single slashes and no dots; the root's own is empty.

        Raises:
            UnsafeMember: it is absolute, has a ``..`` or a NUL, or passes ``max_name_bytes`` or ``max_depth``.
        """
        if name.startswith(b"/"):
            raise UnsafeMember(f"member {shown(name)} has an absolute name")
        if b"\0" in name:
            raise UnsafeMember(f"member {shown(name)} has a NUL in its name")
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise UnsafeMember(f"member {shown(name)} has '..' in its name")
        path = b"/".join(parts)
        if len(path) > self.limits.max_name_bytes:
            raise _too_long(name, path, self.limits)
        if len(parts) - 1 > self.limits.max_depth:
            raise UnsafeMember(
                f"member {shown(name)} lies {len(parts) - 1} folders deep; "
                f"at most {self.limits.max_depth} are allowed (max_depth)"
            )
        return path

    def _place(self, name: bytes) -> tuple[int, bytes]:
        """The descriptor of a member's folder, made if need be, and its name there; both good for this member only."""
        path = self.normal(name)
        if not path:
            raise UnsafeMember(f"member {shown(name)} has no name of its own")
        parent, _, base = path.rpartition(b"/")
        self._at = self._folder(parent, name)
        self._parent = parent
        # Only a name that ends as its path does says how the archive writes this folder.
        raw, _, last = name.rpartition(b"/")
        self._raw = raw if last == base else None
        return self._at, base

    def _path(self, base: bytes) -> bytes:
        return self._parent + b"/" + base if self._parent else base

    def _folder(self, path: bytes, name: bytes) -> int:
        self._raw = None
        try:
            return self._folders.make(path)
        except NotADirectoryError as error:
            between = os.fsencode(error.filename)
            what = "a link" if between in self._links else "no folder"
            raise UnsafeMember(f"member {shown(name)} lies beneath {shown(between)}, which is {what}") from error
        except OSError as error:
            raise _refused("create folder", path, error) from error

    def _make_room(self, at: int, base: bytes) -> None:
        """Remove what an earlier member left under this name, as GNU tar does: all but a folder with content."""
        path = self._path(base)
        self._raw = None
        try:
            if stat.S_ISDIR(os.lstat(base, dir_fd=at).st_mode):
                os.rmdir(base, dir_fd=at)
                self._folders.forget(path)
                self._folder_times.pop(path, None)
            else:
                os.unlink(base, dir_fd=at)
                self._links.pop(path, None)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise UnsafeMember(f"member {shown(path)} would replace a folder that is not empty") from error
            raise DiskError.of("replace", shown(path), error) from error

    # Members

    def _create(self, name: bytes, mode: int) -> int:
        at, base = self._place(name)
        try:
            try:
                descriptor = os.open(base, _NEW_FILE, mode, dir_fd=at)
            except FileExistsError:
                self._make_room(at, base)
                descriptor = os.open(base, _NEW_FILE, mode, dir_fd=at)
        except OSError as error:
            raise _refused("create", name, error) from error
        return descriptor

    def _set_mode(self, descriptor: int, mode: int) -> None:
        if not mode & self._lost:
            given = os.fstat(descriptor).st_mode & 0o777
            if given == mode:
                self._kept |= mode
                return
            self._lost |= mode & ~given
        os.fchmod(descriptor, mode)

    def add_ordinary(self, members: list[Ordinary]) -> None:
        """Regular files whose content is at hand, and folders, in their order.

        A file's permissions are those of its mode and u+rwX: the owner can always read and replace what was staged.
        """
        # There may be millions of them: written out rather than composed, each call would be a tenth of one.
        sizes = [len(content) for _, _, _, content in members if content is not None]
        count = sum(sizes)
        room = self._budget.has(count, len(sizes)) and self.bytes + self._overhead_bytes + count <= self._ratio_from
        if not room and len(members) > 1:
            # What still fits is written, and the member that does not is the one that is told of.
            for member in members:
                self.add_ordinary([member])
            return
        self.charge(count, len(sizes))
        most_name_bytes = self.limits.max_name_bytes
        for name, stored_mode, mtime_ns, content in members:
            if content is None:
                self.add_folder(name, stored_mode, mtime_ns)
                continue
            mode = stored_mode & 0o777 | (0o700 if stored_mode & 0o111 else 0o600)
            raw, _, base = name.rpartition(b"/")
            if (
                raw == self._raw
                and base not in _DOTS
                and name[0] != 0x2F
                and len(name) <= most_name_bytes
                and b"\0" not in base
            ):
                at = self._at
            else:
                at, base = self._place(name)
            try:
                descriptor = os.open(base, _NEW_FILE, mode, dir_fd=at)
            except OSError:
                descriptor = self._create(name, mode)
            try:
                if content:
                    try:
                        written = os.write(descriptor, content)
                    except OSError as error:
                        raise DiskError.of("write", shown(name), error) from error
                    if written < len(content):
                        _write(descriptor, content[written:], name)
                try:
                    if mode & ~self._kept:
                        self._set_mode(descriptor, mode)
                    os.utime(descriptor, ns=(mtime_ns, mtime_ns))
                except OSError as error:
                    raise DiskError.of("set mode and time of", shown(name), error) from error
            except BaseException:
                os.close(descriptor)
                raise
            try:
                os.close(descriptor)
            except OSError as error:
                raise DiskError.of("write", shown(name), error) from error

    def add_file(self, name: bytes, mode: int, mtime_ns: int, size: int, stream: Stream) -> None:
        """A regular file of ``size`` bytes, taken from the stream; its permissions as in :meth:`add_ordinary`."""
        view, at = stream.window()
        if len(view) - at < size:
            self.add_sparse(name, mode, mtime_ns, size, [(0, size)], stream)
        else:
            stream.move_to(at + size)
            self.add_ordinary([(name, mode, mtime_ns, view[at : at + size])])

    def add_sparse(
        self, name: bytes, mode: int, mtime_ns: int, size: int, pieces: list[tuple[int, int]], stream: Stream
    ) -> None:
        """A regular file of ``size`` bytes of which only the pieces (offset, bytes) are in the stream."""
        self.charge(size, 1)
        mode = mode & 0o777 | (0o700 if mode & 0o111 else 0o600)
        descriptor = self._create(name, mode)
        try:
            for offset, count in pieces:
                os.lseek(descriptor, offset, os.SEEK_SET)
                _copy(stream, count, descriptor, name)
            try:
                os.ftruncate(descriptor, size)
                self._set_mode(descriptor, mode)
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            except OSError as error:
                raise DiskError.of("set size, mode and time of", shown(name), error) from error
        except BaseException:
            os.close(descriptor)
            raise
        _close(descriptor, name)

    def add_stream(self, name: bytes, stream: Stream) -> None:
        """A regular file of everything that is left of the stream; its mode and time are those of any new file."""
        self.charge(0, 1)
        descriptor = self._create(name, 0o666)
        try:
            for buffer in stream.rest():
                self.charge(len(buffer))
                _write(descriptor, memoryview(buffer), name)
        except BaseException:
            os.close(descriptor)
            raise
        _close(descriptor, name)

    def add_folder(self, name: bytes, mode: int, mtime_ns: int) -> None:
        self.charge(0, 1)
        # Python writes "/" for the root itself when it is added under an empty name.
        path = self.normal(name) if name.strip(b"/") else b""
        if path:
            at, base = self._place(path)
            try:
                try:
                    os.mkdir(base, 0o700, dir_fd=at)
                except FileExistsError:
                    if not stat.S_ISDIR(os.lstat(base, dir_fd=at).st_mode):
                        self._make_room(at, base)
                        os.mkdir(base, 0o700, dir_fd=at)
            except OSError as error:
                raise _refused("create folder", path, error) from error
        descriptor = self._folder(path, name)
        try:
            os.fchmod(descriptor, mode & 0o777 | 0o700)
        except OSError as error:
            raise DiskError.of("set mode of", shown(path), error) from error
        self._folder_times.pop(path, None)
        self._folder_times[path] = mtime_ns

    def add_symlink(self, name: bytes, target: bytes, mtime_ns: int) -> None:
        """A symbolic link. Nothing is ever written through it; where it leads is proved when the tree is whole."""
        self.charge(0, 1)
        at, base = self._place(name)
        path = self._path(base)
        self._check_target(path, target)
        try:
            try:
                os.symlink(target, base, dir_fd=at)
            except FileExistsError:
                self._make_room(at, base)
                os.symlink(target, base, dir_fd=at)
            os.utime(base, ns=(mtime_ns, mtime_ns), dir_fd=at, follow_symlinks=False)
        except OSError as error:
            raise _refused("create link", path, error) from error
        self._links[path] = target

    def add_hard_link(self, name: bytes, target: bytes) -> None:
        """A second name for a file that this archive brought."""
        self.charge(0, 1)
        source = self.normal(target)
        path = self.normal(name)
        if source == path:
            raise CorruptArchive(f"member {shown(name)} is a hard link to itself")
        at, base = self._place(name)
        at = os.dup(at)  # looking for the other folder may close this one
        try:
            source_at = self._file_of_link(name, source)
            source_base = source.rpartition(b"/")[2]
            try:
                os.link(source_base, base, src_dir_fd=source_at, dst_dir_fd=at, follow_symlinks=False)
            except FileExistsError:
                self._make_room(at, base)
                os.link(source_base, base, src_dir_fd=source_at, dst_dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if isinstance(error, DiskError):
                raise
            raise _refused("create hard link", path, error) from error
        finally:
            os.close(at)

    def _file_of_link(self, name: bytes, source: bytes) -> int:
        """The folder of the file that a hard link is to."""
        what = f"member {shown(name)} is a hard link to {shown(source)}, which"
        self._raw = None
        parent, _, base = source.rpartition(b"/")
        try:
            at = self._folders.find(parent)
            kind = stat.S_IFMT(os.lstat(base or b".", dir_fd=at).st_mode)
        except NotADirectoryError as error:
            raise UnsafeMember(f"{what} lies beneath no folder") from error
        except FileNotFoundError as error:
            raise CorruptArchive(f"{what} is not there before it") from error
        if kind != stat.S_IFREG:
            raise UnsafeMember(f"{what} is {'a link' if kind == stat.S_IFLNK else 'no file'}")
        return at

    # Links

    def _check_target(self, path: bytes, target: bytes) -> None:
        """Refuse a link that, read as text, leaves the folder."""
        if not target or b"\0" in target:
            raise CorruptArchive(f"member {shown(path)} is a link without a target")
        if target.startswith(b"/"):
            raise UnsafeMember(f"member {shown(path)} is a link to the absolute path {shown(target)}")
        if len(target) > self.limits.max_name_bytes:
            raise UnsafeMember(
                f"member {shown(path)} is a link to a path of {len(target)} bytes; "
                f"at most {self.limits.max_name_bytes} are allowed (max_name_bytes)"
            )
        if leaves(path, target):
            raise _escapes(path, target)

    def _check_links(self) -> None:
        """Refuse links that leave the folder by way of other links, whether or not what they lead to exists."""
        for path, target in self._links.items():
            reached = path.split(b"/")[:-1]
            ahead = target.split(b"/")[::-1]
            hops = 1
            while ahead:
                part = ahead.pop()
                if part in (b"", b"."):
                    continue
                if part == b"..":
                    if not reached:
                        raise _escapes(path, target)
                    reached.pop()
                    continue
                reached.append(part)
                onward = self._links.get(b"/".join(reached))
                if onward is not None:
                    hops += 1
                    if hops > _MOST_HOPS:
                        break
                    reached.pop()
                    ahead.extend(onward.split(b"/")[::-1])
                elif len(reached) > self.limits.max_depth + 1:
                    raise UnsafeMember(
                        f"member {shown(path)} is a link to {shown(target)}, more than {self.limits.max_depth} "
                        "folders deep (max_depth)"
                    )

    def _set_folder_times(self) -> None:
        """Last of all, for whatever is created in a folder changes its time."""
        for path in reversed(self._folder_times):
            mtime_ns = self._folder_times[path]
            times = (mtime_ns, mtime_ns)
            try:
                if path:
                    parent, _, base = path.rpartition(b"/")
                    os.utime(base, ns=times, dir_fd=self._folders.find(parent), follow_symlinks=False)
                else:
                    os.utime(self._into, ns=times)
            except OSError as error:
                raise DiskError.of("set time of", shown(path), error) from error


def only_file(name: bytes, buffers: Iterable[Buffer], into: int, budget: Budget) -> int:
    """Write the only file of an empty folder: what a :class:`Tree` would do, without all that one file cannot need.

    Args:
        name: of the file, no path.

    Returns:
        Its bytes, which the budget holds unless this raises.
    """
    if len(name) > budget.limits.max_name_bytes:
        raise _too_long(name, name, budget.limits)
    budget.take_members()
    try:
        descriptor = os.open(name, _NEW_FILE, 0o666, dir_fd=into)
    except OSError as error:
        raise _refused("create", name, error) from error
    count = 0
    try:
        try:
            for buffer in buffers:
                count += len(buffer)
                budget.take_bytes(len(buffer))
                _write(descriptor, memoryview(buffer), name)
        except BaseException:
            os.close(descriptor)
            raise
        _close(descriptor, name)
    except BaseException:
        budget.give_bytes(count)
        raise
    return count


def leaves(path: bytes, target: bytes) -> bool:
    """Whether a link at ``path`` with this target, both read as text, leads out of the tree."""
    depth = path.count(b"/")
    if target.startswith(b"/"):
        return True
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return False


def _too_long(name: bytes, path: bytes, limits: Limits) -> UnsafeMember:
    return UnsafeMember(
        f"member {shown(name)} has a name of {len(path)} bytes; "
        f"at most {limits.max_name_bytes} are allowed (max_name_bytes)"
    )


def _escapes(path: bytes, target: bytes) -> UnsafeMember:
    return UnsafeMember(f"member {shown(path)} is a link to {shown(target)}, which leaves the folder")


def _refused(operation: str, path: bytes, error: OSError) -> ArchiveError | DiskError:
    if error.errno == errno.ENAMETOOLONG:
        return UnsafeMember(f"member {shown(path)} has a name too long for this file system")
    return DiskError.of(operation, shown(path), error)


def _copy(stream: Stream, count: int, descriptor: int, name: bytes) -> None:
    while count:
        piece = stream.take(count)
        if not piece:
            raise cut_short()
        count -= len(piece)
        _write(descriptor, piece, name)


def _write(descriptor: int, piece: memoryview, name: bytes) -> None:
    try:
        written = os.write(descriptor, piece)
        while written < len(piece):
            written += os.write(descriptor, piece[written:])
    except OSError as error:
        raise DiskError.of("write", shown(name), error) from error


def _close(descriptor: int, name: bytes) -> None:
    """Some file systems tell only now that there was no room."""
    try:
        os.close(descriptor)
    except OSError as error:
        raise DiskError.of("write", shown(name), error) from error

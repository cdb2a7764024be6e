"""What a store is: six verbs over keys, and the small values they speak in.

A store talks to one bucket (or one root) with one identity. Between a store and a disk everything is an iterator of
buffers; a buffer is ``bytes`` or a ``memoryview`` of bytes and is not changed after it was handed over.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, SupportsIndex, TypeVar

from creds.errors import Cancelled, CredentialError, DeadlineExceeded, LocationError, ToolkitError

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

Buffer = bytes | memoryview

DEFAULT_WINDOW_BYTES = 96 << 20

_FEW_PARTS = 4
_LEAST_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMeta:
    """What a store says of one object.

    Attributes:
        key: the object's key.
        size_bytes: its length, None when the server does not tell.
        etag: the server's ETag as sent, quotes included; None when it has none.
        version: the server's version id, None where versioning is off.
        modified: the last change, timezone-aware; None when the server does not tell.
        checksums: algorithm name (``sha256``, ``crc32``, ...) to the server's value for the whole object, in base64.
            ``md5`` is an ETag's that is known to be one, ``md5/SIZE`` that of the MD5s of parts of so many bytes.
    """

    key: str
    size_bytes: int | None = None
    etag: str | None = None
    version: str | None = None
    modified: datetime | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    @property
    def strong(self) -> bool:
        """Does its ETag name one sequence of bytes? A weak one says that two are as good as each other."""
        return self.etag is not None and not self.etag.startswith("W/")

    def replaced_by(self, later: ObjectMeta) -> bool:
        """Is what a later answer tells of this key another generation? Where neither tells a size, it cannot."""
        sizes = (self.size_bytes, later.size_bytes)
        return (
            self.etag != later.etag
            or (None not in sizes and sizes[0] != sizes[1])
            or (not self.strong and self.modified != later.modified)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """One repeated attempt, told before its wait begins.

    Attributes:
        op: the operation that is repeated.
        attempt: the number of the attempt that failed, from 1.
        wait_seconds: how long until the next one.
        error: why.
    """

    op: str
    attempt: int
    wait_seconds: float
    error: ToolkitError


OnRetry = Callable[[Retry], None]


class Cancel:
    """A switch that stops work: set once, seen by every thread, wakes every wait.

    A child made by :meth:`child` is cancelled with its parent, not the other way round.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._kind: type[Cancelled] = Cancelled
        self.reason = "cancelled"

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def cancel(self, reason: str = "cancelled", kind: type[Cancelled] = Cancelled) -> None:
        """Stop the work. Callbacks run once, in this thread; a second call does nothing.

        Args:
            reason: what the errors say.
            kind: the errors' class.
        """
        with self._lock:
            if self._event.is_set():
                return
            self.reason, self._kind = reason, kind
            self._event.set()
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raise :class:`~creds.errors.Cancelled` if the work was stopped."""
        if self._event.is_set():
            raise self.error()

    def error(self) -> Cancelled:
        """What is raised of work that was stopped."""
        return self._kind(self.reason)

    def wait(self, seconds: float) -> None:
        """Sleep for ``seconds``, or raise :class:`~creds.errors.Cancelled` as soon as the work is stopped."""
        if self._event.wait(seconds):
            raise self.error()

    @contextmanager
    def within(self, seconds: float, began: float | None = None) -> Iterator[None]:
        """Stop the work with :class:`~creds.errors.DeadlineExceeded` if the ``with`` block takes longer than this.

        Args:
            began: since when, by :func:`time.monotonic`; None is now.
        """
        left = seconds if began is None else max(0.0, began + seconds - time.monotonic())
        timer = threading.Timer(left, self.cancel, (f"the deadline of {seconds:g} s is over", DeadlineExceeded))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call ``callback`` when the work is stopped while the ``with`` block runs (at once if it already was)."""
        with self._lock:
            number = self._next
            self._next += 1
            already = self._event.is_set()
            if not already:
                self._callbacks[number] = callback
        if already:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.pop(number, None)

    @contextmanager
    def child(self) -> Iterator[Cancel]:
        """A switch of its own for one part of the work, stopped with this one."""
        child = Cancel()
        with self.calling(lambda: child.cancel(self.reason, self._kind)):
            yield child


class Window:
    """The process's budget of bytes in flight: reads ahead and upload parts.

    A stream's next part in order is always granted, so nothing can deadlock; only work ahead of that waits for room,
    and no stream may hold more than its fair share while others are active. Memory is therefore bounded by
    ``max_bytes`` plus one part a stream.

    Args:
        max_bytes: bytes in flight over all streams.
    """

    def __init__(self, max_bytes: int = DEFAULT_WINDOW_BYTES) -> None:
        self.max_bytes = max_bytes
        self.lock = threading.Lock()
        self.used_bytes = 0
        self.streams = 0

    @contextmanager
    def stream(self) -> Iterator[Share]:
        """Join as one stream for as long as the ``with`` block runs."""
        share = Share(self)
        with self.lock:
            self.streams += 1
        try:
            yield share
        finally:
            with self.lock:
                self.streams -= 1
                self.used_bytes -= share.held
                share.held = 0


class Share:
    """One stream's part of a :class:`Window`."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.held = 0

    def take(self, count: int) -> None:
        """Account for the stream's next part in order: always granted."""
        with self._window.lock:
            self._window.used_bytes += count
            self.held += count

    def try_take(self, count: int) -> bool:
        """Account for a part ahead of the next one; False when there is no room or it is more than a fair share."""
        window = self._window
        with window.lock:
            fair = window.max_bytes // max(1, window.streams)
            if window.used_bytes + count > window.max_bytes or self.held + count > fair:
                return False
            window.used_bytes += count
            self.held += count
            return True

    def part_bytes(self, most: int) -> int:
        """How large a part may be so that a few of them fit into a fair share: ``most``, less among many streams."""
        few = self._window.max_bytes // (_FEW_PARTS * max(1, self._window.streams))
        return min(most, max(few, _LEAST_PART_BYTES))

    def give(self, count: int) -> None:
        """Return what was taken."""
        with self._window.lock:
            self._window.used_bytes -= count
            self.held -= count


class Rate:
    """The process's bandwidth: one bucket that all transfers draw from, uploads and downloads alike.

    Takers are served in the order they come, so streams that take pieces of ``piece_bytes`` get equal shares. What was
    not used for a quarter of a second is lost, so nothing bursts.

    Args:
        bytes_per_second: over all that take.
        clock: seconds that only go forward.
        pause: waits for that many seconds, or raises once the ``Cancel`` is set.

    Attributes:
        piece_bytes: the largest amount to take at once.

    Raises:
        ValueError: less than a byte a second.
    """

    def __init__(
        self,
        bytes_per_second: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float, Cancel], None] = lambda seconds, cancel: cancel.wait(seconds),
    ) -> None:
        if bytes_per_second < 1:
            raise ValueError(f"a rate of {bytes_per_second} bytes per second moves nothing")
        self.bytes_per_second = bytes_per_second
        self.piece_bytes = max(1, min(1 << 20, bytes_per_second // 16))
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._free_at = -math.inf

    def __repr__(self) -> str:
        return f"Rate({self.bytes_per_second})"

    def take(self, count: int, cancel: Cancel | None = None) -> None:
        """Wait until ``count`` bytes may pass.

        Raises:
            Cancelled: ``cancel`` was set meanwhile.
        """
        with self._lock:
            now = self._clock()
            begins = max(self._free_at, now - _SLACK_SECONDS)
            self._free_at = begins + count / self.bytes_per_second
        if begins > now:
            self._pause(begins - now, cancel or Cancel())

    def __reduce__(self) -> tuple[Any, ...]:
        return Rate, (self.bytes_per_second,)  # another process has a bucket of its own


_SLACK_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and how long an idempotent operation is repeated.

    Attributes:
        attempts: tries in all, the first included.
        for_seconds: no new try starts later than this after the first.
        first_wait_seconds, max_wait_seconds: the back-off doubles from one to the other, with full jitter; a server's
            Retry-After is obeyed up to the latter.
    """

    attempts: int = 6
    for_seconds: float = 120.0
    first_wait_seconds: float = 0.2
    max_wait_seconds: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How certificates are checked, and which one is shown. Verification cannot be turned off.

    Attributes:
        ca_pem: certificates trusted in addition to the system's, as PEM.
        client_cert, client_key: paths of PEM files; the key may be in the certificate's.
    """

    ca_pem: bytes | None = None
    client_cert: str | None = None
    client_key: str | None = None

    def context(self, *, shown: bool) -> ssl.SSLContext:
        """How certificates are checked: against the system's authorities and those added to them.

        Args:
            shown: show the client's certificate to a server that asks for one.

        Raises:
            CredentialError: it cannot be used.
            LocationError: the authority's certificate cannot be read.
        """
        import ssl  # slow to load, and not needed for a plaintext server

        made = ssl.create_default_context()
        if self.ca_pem is not None:
            try:
                made.load_verify_locations(cadata=self.ca_pem.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                hint = "it must be certificates in PEM form"
                raise LocationError("the certificate authority (ca) cannot be read", hint=hint) from error
        if shown:
            self.show(made)
        return made

    def show(self, context: ssl.SSLContext) -> None:
        """Let ``context`` show the client's certificate, if there is one. Nobody is asked for a passphrase.

        Raises:
            CredentialError: it cannot be read, its key does not fit, or is encrypted.
        """
        if self.client_cert is None:
            return
        name = self.client_cert if self.client_key is None else f"{self.client_cert}, {self.client_key}"
        locked = False

        def passphrase() -> str:
            nonlocal locked
            locked = True
            return ""

        try:
            context.load_cert_chain(self.client_cert, self.client_key, passphrase)
        except (OSError, ValueError) as error:
            raise CredentialError(
                f"the client certificate ({name}) cannot be used"
                + (": its key is encrypted, and nobody is asked for the passphrase" if locked else ""),
                hint="both must be unencrypted PEM files that belong together",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """How an SFTP server is known, and how we log in. An unknown host key is never accepted.

    Attributes:
        known_hosts: path of an OpenSSH ``known_hosts`` file.
        fingerprints: accepted host keys, as ``SHA256:...`` (what ``ssh-keygen -l`` prints).
        key: path of a private key to log in with instead of a password.
        key_passphrase: of that key.

    Raises:
        CredentialError: a fingerprint is none.
    """

    known_hosts: str | None = None
    fingerprints: tuple[str, ...] = ()
    key: str | None = None
    key_passphrase: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for fingerprint in self.fingerprints:
            if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}=?", fingerprint):
                raise CredentialError(
                    f"the host key {fingerprint[:80]!r} is no fingerprint",
                    hint="SHA256: and 43 letters, as ssh-keygen -l prints it",
                )

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if self.key_passphrase is not None:
            raise TypeError("a passphrase is not pickled: give it where the store is opened")
        return object.__reduce_ex__(self, protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sts:
    """How keys are got from a security token service (STS). All of it is the operator's; no request can set it.

    Attributes:
        role_arn: the role to take. None is that of the policy's issuer table; servers such as MinIO need none.
        external_id: what the role's owner asks of those who take it with keys of their own (AssumeRole alone).
        session_name: how the server's logs name the session: 2 to 64 of ``A-Za-z0-9_+=,.@-``.
        duration_seconds: how long the keys shall live, 900 to 43,200; None leaves it to the server.
        endpoint_url: ``http(s)://host[:port]`` of the STS; None is that of the issuer table, else AWS' regional one for
            buckets at AWS and the S3 endpoint itself for others.
        session_policy: an IAM policy, as JSON, that narrows what the role allows.
        token: makes the operator's own JWT where a request carries no credential: a ``TokenFile`` or ``TokenVariable``
            of :mod:`creds.tokens`, or any callable without arguments that returns a token.

    Raises:
        CredentialError: the session's name or duration is none.
    """

    role_arn: str | None = None
    external_id: str | None = field(default=None, repr=False)
    session_name: str = "artifact-creds"
    duration_seconds: int | None = None
    endpoint_url: str | None = None
    session_policy: str | None = None
    token: Callable[[], Any] | None = field(default=None, repr=False, hash=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_+=,.@-]{2,64}", self.session_name):
            raise CredentialError(
                f"the session name is {self.session_name[:80]!r}", hint="2 to 64 letters, digits or _+=,.@-"
            )
        if self.duration_seconds is not None and not 900 <= self.duration_seconds <= 43_200:
            raise CredentialError(
                f"a session of {self.duration_seconds} s cannot be had", hint="STS gives 900 to 43200 seconds"
            )


MOST_CONNECTIONS = 64
"""Parts of one object side by side at the most: more gain nothing, and servers bear no more."""

SSE = ("AES256", "aws:kms", "aws:kms:dsse")
"""How S3 can be asked to encrypt what is written, as ``x-amz-server-side-encryption`` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """What an S3 server is told beside the object itself, in AWS' own words. All of it is the operator's.

    Attributes:
        requester_pays: the account that asks pays for it, not the bucket's (``x-amz-request-payer``).
        sse: how what is written is encrypted there, one of ``SSE``; None leaves it to the bucket.
        sse_kms_key_id: the KMS key for ``aws:kms`` and ``aws:kms:dsse``; None is the account's own.
        sse_kms_context: what KMS binds the ciphertext to, and logs.
        sse_c_key: the customer's own key (SSE-C), 32 bytes, for all that is written and read. It travels with every
            request, over TLS alone; the server keeps none of it, and without it nothing can be read again.

    Raises:
        CredentialError: these do not go together, or the key is none.
    """

    requester_pays: bool = False
    sse: str | None = None
    sse_kms_key_id: str | None = None
    sse_kms_context: Mapping[str, str] = field(default_factory=dict, hash=False)
    sse_c_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.sse is not None and self.sse not in SSE:
            raise CredentialError(f"sse is {self.sse[:40]!r}", hint=f"one of {', '.join(SSE)}")
        if (self.sse_kms_key_id or self.sse_kms_context) and self.sse in (None, "AES256"):
            raise CredentialError("a KMS key or context goes with sse aws:kms or aws:kms:dsse")
        if self.sse_c_key is None:
            return
        if self.sse is not None:
            raise CredentialError("sse and sse_c_key exclude each other", hint="either the server has a key, or you")
        if len(self.sse_c_key) != 32:
            raise CredentialError(f"the customer's key has {len(self.sse_c_key)} bytes", hint="AES256 wants 32")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if self.sse_c_key is not None:
            raise TypeError("a customer's key is not pickled: give it where the store is opened")
        return object.__reduce_ex__(self, protocol)


class Sessions:
    """What makes keys, and what is known of servers, shared by all stores that would make or learn the same.

    One session serves many objects, rather than one each.

    Args:
        most: how many are kept; the one that was asked for longest ago goes first.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._made: dict[Hashable, Any] = {}

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` made for an equal ``key`` before, or makes now. ``make`` does no I/O."""
        with self._lock:
            made: T = self._made.pop(key) if key in self._made else make()
            self._made[key] = made
            while len(self._made) > self._most:
                del self._made[next(iter(self._made))]
            return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Sessions, (self._most,)  # sessions are not sent elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How a store talks, apart from where to and as whom. Everything has a finite default.

    Attributes:
        connect_timeout_seconds, read_timeout_seconds: for one connection, and for one silence on it.
        retries: see :class:`Retries`.
        window: the process's budget of bytes in flight; None makes one for this store alone.
        rate: the process's bandwidth; None is whatever the network gives.
        ambient: use the machine's own AWS chain where the credential is absent.
        profile: use this profile of the machine's AWS configuration where the credential is absent.
        request_env: the request's own environment, whose ``AWS_*`` pair serves where the credential is absent.
        region: overrides every other source of the region.
        addressing: ``path``, ``virtual`` or ``auto`` (virtual on AWS, path elsewhere).
        checksums: send a CRC32 of what is written to S3: ``auto`` (on AWS only), ``always`` or ``never``.
        tls: see :class:`Tls`.
        ssh: see :class:`Ssh`.
        sts: see :class:`Sts`.
        s3: see :class:`S3`.
        sessions: see :class:`Sessions`; options made of these by :func:`dataclasses.replace` share it.
        proxies: URL by scheme (``http``, ``https``) and ``no`` (comma-separated hosts); None reads ``HTTP_PROXY``,
            ``HTTPS_PROXY`` and ``NO_PROXY`` once, the one documented exception to taking nothing from the environment.
        part_bytes: the smallest part of a ranged read or a multipart upload.
        parallel_parts: parts of one object in flight; up to four times as many are read ahead where the server is so
            far away that its latency would be felt.
    """

    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    retries: Retries = Retries()
    window: Window | None = None
    rate: Rate | None = None
    ambient: bool = False
    profile: str | None = None
    request_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    region: str | None = None
    addressing: str = "auto"
    checksums: str = "auto"
    tls: Tls = Tls()
    ssh: Ssh = Ssh()
    sts: Sts = Sts()
    s3: S3 = S3()
    sessions: Sessions = field(default_factory=Sessions, repr=False, compare=False)
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    part_bytes: int = 8 << 20
    parallel_parts: int = 4


class Reading(Protocol):
    """One object being read, in order. Leave the ``with`` block early and its connections close at once.

    ``meta`` is known as soon as :meth:`Store.open` returns. Iteration raises what :meth:`Store.open` raises, and
    :class:`~creds.errors.ObjectChanged` when the object is replaced in between. ``pinned`` says what holds the parts
    to one generation: ``etag``, ``version``, ``weak`` (size and time only) or ``none`` (a single response).
    """

    @property
    def meta(self) -> ObjectMeta: ...
    @property
    def pinned(self) -> str: ...
    def __iter__(self) -> Iterator[Buffer]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """One bucket or root, one identity. Safe to use from many threads.

    Every verb raises the :class:`~creds.errors.StoreError` that fits, retries idempotent work by its options, and
    stops with :class:`~creds.errors.Cancelled` within a second of ``cancel``.
    """

    @property
    def client(self) -> Any:
        """The live SDK object (for S3 a boto3 client, signing with the same provider): the documented way out."""

    @property
    def enforces_conditions(self) -> bool:
        """Does the server hold ``if_match`` and ``if_none_match`` on writes? May ask it once, leaving nothing behind.

        False unless proven: some S3 servers accept the headers and ignore them.
        """

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> Reading:
        """Begin to read ``key`` from byte ``start``; no request precedes the first GET.

        Raises ObjectNotFound, BucketNotFound, AccessDenied, Unauthenticated, ObjectChanged (``if_match`` differs),
        StoreTimeout, StoreUnavailable.
        """

    def write(
        self,
        key: str,
        buffers: Iterable[Buffer],
        *,
        size_hint_bytes: int | None = None,
        if_match: str | None = None,
        if_none_match: bool = False,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> ObjectMeta:
        """Write all of ``buffers`` as ``key``: it appears when complete, or not at all.

        An exception out of ``buffers`` aborts the write and passes through. ``if_match`` (an ETag) and
        ``if_none_match`` (True: only if absent) raise ObjectChanged where the server enforces them.
        """

    def head(self, key: str, *, checksums: bool = False, cancel: Cancel | None = None) -> ObjectMeta:
        """What the server says of ``key``, without its bytes. Raises as :meth:`open`.

        With ``checksums`` it is asked for those of the whole object too, which may take a permission more (on AWS the
        right to decrypt); none where the server has none.
        """

    def list(self, prefix: str = "", *, recursive: bool = True, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        """Every object whose key starts with ``prefix``, sorted by the key's bytes, page by page.

        With ``recursive=False`` what lies behind the first ``/`` after ``prefix`` is told once, as its folder: a meta
        whose key ends at that ``/`` and that has nothing else, no size either.
        """

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        """Remove ``key``; one that is absent already is no error (S3 cannot tell)."""

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:
        """A URL that lets whoever holds it GET or PUT ``key`` until it expires. A secret. May raise NotSupported."""

    def close(self) -> None:
        """Close connections and threads. The store is not used afterwards; a second call does nothing."""

"""S3 and what speaks like it: boto3 decides who we are, writes and is the live client; obstore reads.

Both engines take settings from the process's environment unless told otherwise, so both are told everything: the
endpoint, region, keys, addressing and every switch that a stray ``AWS_*`` variable or ``~/.aws`` file could turn. The
one documented exception is the proxy (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``). Neither engine repeats a request
by itself: :mod:`creds.retry` is the only loop, and it sees every failure as one of :mod:`creds.errors`.

Known limits. obstore follows a redirect that carries a Location (without the credentials) and verifies no checksum on
a GET, so a byte flipped on a plaintext link comes back as content; compare digests where that matters. A response to
CreateMultipartUpload that is lost on the way leaves an empty upload behind, because its id is in that response.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib
import os
import re
import secrets
import socket
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from creds import retry
from creds.errors import (
    AccessDenied,
    BucketNotFound,
    Cancelled,
    NotSupported,
    ObjectChanged,
    ObjectNotFound,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    ToolkitError,
    Unauthenticated,
)
from creds.store import Buffer, Cancel, ObjectMeta, OnRetry, Reading, Retries, StoreOptions, Window

if TYPE_CHECKING:
    from creds.keys import AwsKeys, CredentialProvider

T = TypeVar("T")

MIN_UPLOAD_PART_BYTES = 8 << 20
MAX_UPLOAD_PART_BYTES = 1 << 30
MAX_PARTS = 10_000  # S3's own limit on one upload
HINTED_PARTS = 9_000  # parts a size hint is cut into: a tenth is left for a hint that was too small
UNHINTED_STEP = 800  # parts of one size while the size is unknown
STREAM_BYTES = 1 << 20

_ABORT_SECONDS = 10.0
_OWED_SECONDS = 2.0
_STOP_SECONDS = 0.5  # how long a stopped verb waits for its threads: all of it must end within a second


# --- errors: one table for both engines ------------------------------------------------------------------------------

_HINT_KEYS = "check the access key, the secret and the session token; temporary keys end"
_HINT_CLOCK = "this machine's clock differs from the server's; set it right"
_HINT_REGION = "the bucket is in another region: set it (--region, or region in the credential)"
_HINT_DENIED = "without the ListBucket permission S3 answers 403 for a missing key too"
_HINT_BUCKET = "check the bucket's name and the endpoint"


@dataclass(frozen=True, slots=True)
class _Rule:
    """What an answer means."""

    kind: type[StoreError]
    retryable: bool = False
    hint: str | None = None


_THROTTLED = _Rule(StoreUnavailable, retryable=True)
_KEYS = _Rule(Unauthenticated, hint=_HINT_KEYS)
_REGION = _Rule(StoreError, hint=_HINT_REGION)

_BY_CODE: Mapping[str, _Rule] = {
    "NoSuchKey": _Rule(ObjectNotFound),
    "NoSuchVersion": _Rule(ObjectNotFound),
    "NoSuchBucket": _Rule(BucketNotFound, hint=_HINT_BUCKET),
    "AccessDenied": _Rule(AccessDenied, hint=_HINT_DENIED),
    "AllAccessDisabled": _Rule(AccessDenied),
    "InvalidAccessKeyId": _KEYS,
    "InvalidClientTokenId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "InvalidToken": _KEYS,
    "ExpiredToken": _KEYS,
    "ExpiredTokenException": _KEYS,
    "TokenRefreshRequired": _KEYS,
    "RequestTimeTooSkewed": _Rule(Unauthenticated, hint=_HINT_CLOCK),
    "RequestExpired": _Rule(Unauthenticated, hint=_HINT_CLOCK),
    "PreconditionFailed": _Rule(ObjectChanged),
    "ConditionalRequestConflict": _THROTTLED,
    "OperationAborted": _THROTTLED,
    "SlowDown": _THROTTLED,
    "ServiceUnavailable": _THROTTLED,
    "InternalError": _THROTTLED,
    "RequestTimeout": _THROTTLED,
    "Throttling": _THROTTLED,
    "ThrottlingException": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _THROTTLED,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "NotImplemented": _Rule(NotSupported),
    "MethodNotAllowed": _Rule(NotSupported),
}
_BY_STATUS: Mapping[int, _Rule] = {
    301: _REGION,
    307: _THROTTLED,
    308: _REGION,
    401: _KEYS,
    403: _Rule(AccessDenied, hint=_HINT_DENIED),
    404: _Rule(ObjectNotFound),
    405: _Rule(NotSupported),
    408: _THROTTLED,
    412: _Rule(ObjectChanged),
    425: _THROTTLED,
    429: _THROTTLED,
    500: _THROTTLED,
    501: _Rule(NotSupported),
    502: _THROTTLED,
    503: _THROTTLED,
    504: _THROTTLED,
}
_BY_FAULT: Mapping[str, _Rule] = {
    "no answer in time": _Rule(StoreTimeout, retryable=True),
    "the server's name is not known": _Rule(StoreUnavailable, retryable=True, hint="check the endpoint's host name"),
    "cannot connect": _Rule(StoreUnavailable, retryable=True, hint="check that the endpoint is up and reachable"),
    "the connection broke": _Rule(StoreUnavailable, retryable=True),
    "the server's certificate is not trusted": _Rule(
        StoreUnavailable, retryable=False, hint="check the endpoint's name and the certificate authority"
    ),
    "redirected without saying where": _REGION,
    "not a request that S3 allows": _Rule(StoreError),
    "an answer that is not S3's": _Rule(StoreError, hint="check that the endpoint is an S3 server"),
}

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9/+=._:-]{1,128}")
_OBSTORE_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_OBSTORE_CODE = re.compile(r"<Code>([^<]*)</Code>")
_OBSTORE_REQUEST_ID = re.compile(r"<RequestId>([^<]*)</RequestId>")
_OBSTORE_LEADS = (
    "Object at location ",
    "Request precondition failure for path ",
    "The operation lacked the necessary privileges to complete for path ",
    "The operation lacked valid authentication credentials for path ",
)
# The first mark found in obstore's account of a failure that is not an answer names it.
_OBSTORE_FAULTS: tuple[tuple[str, str], ...] = (
    ("BareRedirect", "redirected without saying where"),
    ("ertificate", "the server's certificate is not trusted"),
    ("dns error", "the server's name is not known"),
    ("TimedOut", "no answer in time"),
    ("kind: Timeout", "no answer in time"),
    ("kind: Connect", "cannot connect"),
    ("HttpError", "the connection broke"),
    ("reqwest::Error", "the connection broke"),
)
_OBSTORE_UNRANGED = ("NotPartial", "MissingContentLength")


class _Unranged(StoreError):
    """The server answers a ranged GET in a way obstore refuses and one stream can still be read from."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an engine's exception says, stripped of everything that must not be printed."""

    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after_seconds: float | None = None
    fault: str = ""


def _from_obstore(error: Exception, key: str) -> _Answer:
    text = str(error)
    for lead in _OBSTORE_LEADS:
        # The key stands in the text before the answer does, and must not pass for one.
        text = text.removeprefix(lead + key)
    account, _, debug = text.partition("Debug source:")
    if (found := _OBSTORE_STATUS.search(account)) is not None:
        code = _OBSTORE_CODE.search(account)
        request_id = _OBSTORE_REQUEST_ID.search(account)
        return _Answer(int(found[1]), code and code[1], request_id and request_id[1])
    for mark, fault in _OBSTORE_FAULTS:
        if mark in debug:
            return _Answer(fault=fault)
    return _Answer(fault="an answer that is not S3's")


def _from_boto(error: Exception) -> _Answer:
    boto = _sdk("botocore.exceptions")
    if isinstance(error, boto.ClientError):
        response: Mapping[str, Any] = error.response
        told = response.get("ResponseMetadata", {})
        code = str(response.get("Error", {}).get("Code", ""))
        after = str(told.get("HTTPHeaders", {}).get("retry-after", ""))
        return _Answer(
            told.get("HTTPStatusCode"),
            # A HEAD has no body to hold a code; botocore puts the status there.
            None if code.isdigit() else code,
            told.get("RequestId"),
            float(after) if after.isdecimal() else None,
        )
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError | TimeoutError):
        return _Answer(fault="no answer in time")
    if isinstance(error, boto.SSLError):
        return _Answer(fault="the server's certificate is not trusted")
    if isinstance(error, boto.ConnectionError):
        if isinstance(error.kwargs.get("error"), _sdk("urllib3.exceptions").NameResolutionError):
            return _Answer(fault="the server's name is not known")
        closed = isinstance(error, boto.ConnectionClosedError)
        return _Answer(fault="the connection broke" if closed else "cannot connect")
    if isinstance(error, boto.HTTPClientError | boto.IncompleteReadError | OSError) or not isinstance(
        error, boto.BotoCoreError
    ):
        return _Answer(fault="the connection broke")
    if isinstance(error, _sdk("botocore.parsers").ResponseParserError):
        return _Answer(fault="an answer that is not S3's")
    return _Answer(fault="not a request that S3 allows")


def _error(answer: _Answer, op: str, where: str) -> StoreError:
    code = answer.code if answer.code and _CODE.fullmatch(answer.code) else None
    request_id = answer.request_id if answer.request_id and _REQUEST_ID.fullmatch(answer.request_id) else None
    if answer.status is None:
        rule = _BY_FAULT[answer.fault]
        said = answer.fault
    else:
        rule = _BY_CODE.get(code or "") or _BY_STATUS.get(answer.status) or _Rule(StoreError)
        said = f"{answer.status} {code}" if code else str(answer.status)
    error = rule.kind(
        f"{op} {where}: {said}",
        op=op,
        location=where,
        http_status=answer.status,
        server_code=code,
        server_request_id=request_id,
        hint=rule.hint,
        retryable=rule.retryable,
    )
    error.retry_after_seconds = answer.retry_after_seconds
    return error


def _shown(key: str) -> str:
    """The key as one printable line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in key)


# --- stopping boto3: a blocking call ends when its socket is shut down -----------------------------------------------


class _Wire:
    """The connections that one verb uses right now; stopping it shuts them down: no thread waits on a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: set[Any] = set()
        self._stopped = False
        self.over: concurrent.futures.Future[None] = concurrent.futures.Future()

    def add(self, connection: Any) -> None:
        with self._lock:
            if self._stopped:
                raise ConnectionAbortedError("stopped")
            self._connections.add(connection)

    def discard(self, connection: Any) -> None:
        with self._lock:
            self._connections.discard(connection)

    def stop(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            connections = list(self._connections)
        self.over.set_result(None)
        for connection in connections:
            _shut(connection.live)


def _shut(bare: Any) -> None:
    if isinstance(bare, socket.socket):
        # The plain socket's own method: a TLS one would first drop the state its reader is using. One that is closed
        # already is as wanted.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(bare, socket.SHUT_RDWR)


_working = threading.local()


@contextmanager
def _on(wire: _Wire | None) -> Iterator[None]:
    """Count the connections that this thread uses in the block as ``wire``'s."""
    before = getattr(_working, "wire", None)
    _working.wire = wire
    try:
        yield
    finally:
        _working.wire = before


@functools.cache
def _pool_classes() -> dict[str, type[Any]]:
    """Botocore's connection pools, with connections that know the verb they serve."""
    awsrequest = _sdk("botocore.awsrequest")

    class Known:
        _wire: _Wire | None = None
        live: Any = None
        """The socket, kept because a connection drops it while the body of its last response is still read from it."""

        def _bind(self) -> None:
            wire: _Wire | None = getattr(_working, "wire", None)
            if self._wire is not None and self._wire is not wire:
                self._wire.discard(self)
            self._wire = wire
            if wire is not None:
                wire.add(self)

        def connect(self) -> None:
            self._bind()
            super().connect()  # type: ignore[misc]  # from the connection class this is mixed into
            self.live = self.sock  # type: ignore[attr-defined]  # as above
            self._bind()  # stopped while it connected: there was no socket yet to shut down

        def request(self, *args: Any, **kwargs: Any) -> Any:
            self._bind()
            return super().request(*args, **kwargs)  # type: ignore[misc]  # as above

    plain = type("Connection", (Known, awsrequest.AWSHTTPConnection), {})
    tls = type("TLSConnection", (Known, awsrequest.AWSHTTPSConnection), {})
    return {
        "http": type("Pool", (awsrequest.AWSHTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("TLSPool", (awsrequest.AWSHTTPSConnectionPool,), {"ConnectionCls": tls}),
    }


def _spawn(work: Callable[[], T], wire: _Wire | None) -> concurrent.futures.Future[T]:
    """Run ``work`` in a thread of its own. A daemon: one that hangs in a connect must not hold up the interpreter."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            with _on(wire):
                result = work()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the result
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="creds-s3", daemon=True).start()
    return future


def _first_of(*futures: concurrent.futures.Future[Any]) -> None:
    """Wait until one of them is done."""
    concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED)


# --- the engines, isolated -------------------------------------------------------------------------------------------


def _sdk(name: str) -> Any:
    """A module of boto3 or what it stands on, loaded when it is first needed; none of them ships types."""
    return importlib.import_module(name)


@functools.cache
def _loader() -> Any:
    """The SDK's own service models, parsed once a process; never those of ``AWS_DATA_PATH`` or ``~/.aws/models``."""
    loader = _sdk("botocore.loaders").Loader

    class Fixed(loader):  # type: ignore[misc,valid-type]  # botocore ships no types
        @property
        def search_paths(self) -> list[str]:
            # A copy: every boto3 session appends its folder, and this loader serves all of them.
            return list(self._search_paths)

    own = os.path.join(os.path.dirname(_sdk("boto3").__file__), "data")  # noqa: PTH118, PTH120 - botocore joins strings
    return Fixed(extra_search_paths=[loader.BUILTIN_DATA_PATH, own], include_default_search_paths=False)


def _boto_client(
    bucket_options: StoreOptions,
    *,
    endpoint_url: str | None,
    region: str,
    provider: CredentialProvider | None,
    addressing: str,
    checksums: bool,
) -> Any:
    """A boto3 client that takes nothing from the environment and asks ``provider`` for keys at every signature."""
    credentials, session = _sdk("botocore.credentials"), _sdk("botocore.session")
    constant = _sdk("botocore.configprovider").ConstantProvider

    class Live(credentials.Credentials):  # type: ignore[misc,name-defined]  # botocore ships no types
        def __init__(self) -> None:
            super().__init__("", "", method="artifact-creds")

        def get_frozen_credentials(self) -> Any:
            assert provider is not None
            keys = provider()
            token = keys.token
            return credentials.ReadOnlyCredentials(keys.access_key, keys.secret_key, token)

    class Source:
        METHOD = CANONICAL_NAME = "artifact-creds"

        def load(self) -> Any:
            return None if provider is None else Live()

    core = session.Session(
        # Every setting loses its environment variable and its name in ~/.aws/config, and keeps its default.
        session_vars={
            name: (None, None, default, convert)
            for name, (_, _, default, convert) in session.Session.SESSION_VARIABLES.items()
        }
        | {
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
    core.get_component("config_store").set_config_provider("s3", constant({}))
    core.register_component("credential_provider", credentials.CredentialResolver([Source()]))
    core.register_component("data_loader", _loader())
    client = (
        _sdk("boto3.session")
        .Session(botocore_session=core)
        .client(
            "s3",
            region_name=region,
            endpoint_url=endpoint_url,
            verify=True,  # said, because REQUESTS_CA_BUNDLE would answer otherwise
            config=_sdk("botocore.config").Config(
                signature_version=_sdk("botocore").UNSIGNED if provider is None else "s3v4",
                s3={
                    "addressing_style": addressing,
                    "us_east_1_regional_endpoint": "regional",
                    "use_accelerate_endpoint": False,
                    "use_dualstack_endpoint": False,
                    "use_arn_region": False,
                },
                connect_timeout=bucket_options.connect_timeout_seconds,
                read_timeout=bucket_options.read_timeout_seconds,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=max(10, 2 * bucket_options.parallel_parts),
                ignore_configured_endpoint_urls=True,
                request_checksum_calculation="when_supported" if checksums else "when_required",
                # A ranged GET is answered by some servers with the whole object's checksum, which then fails to match.
                response_checksum_validation="when_required",
                use_fips_endpoint=False,
                use_dualstack_endpoint=False,
                user_agent="artifact-creds",
            ),
        )
    )
    # The one private name used: without it a stopped verb's threads would wait for the server, or the timeouts. With
    # a botocore that lacks it they do.
    with contextlib.suppress(AttributeError):
        client._endpoint.http_session._pool_classes_by_scheme.update(_pool_classes())  # noqa: SLF001 - see above
    return client


def _aws_endpoint(region: str) -> str:
    """The endpoint that botocore would choose, for the engine that must be told one."""
    return f"https://s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def _obstore_store(
    bucket: str,
    options: StoreOptions,
    *,
    endpoint_url: str | None,
    region: str,
    keys: AwsKeys | None,
    virtual: bool,
) -> Any:
    """An obstore store that takes nothing from the environment. Its keys are one snapshot, never renewed."""
    from obstore.store import S3Store as ObstoreS3

    endpoint = endpoint_url or _aws_endpoint(region)
    if virtual:
        parts = urlsplit(endpoint)
        endpoint = parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()

    def credential() -> Any:
        if keys is None:
            return {"access_key_id": "", "secret_access_key": "", "token": None, "expires_at": None}
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": None,
        }

    read_seconds = options.read_timeout_seconds
    return ObstoreS3(
        bucket,
        endpoint=endpoint,
        aws_endpoint_url_s3=endpoint,
        region=region,
        default_region=region,
        virtual_hosted_style_request=virtual,
        credential_provider=credential,
        skip_signature=keys is None,
        # What follows says the default aloud: unsaid, an AWS_* variable would say it.
        s3_express=False,
        unsigned_payload=False,
        request_payer=False,
        imdsv1_fallback=False,
        checksum_algorithm="SHA256",
        conditional_put="etag",
        copy_if_not_exists="multipart",
        disable_tagging=False,
        disable_bulk_delete=False,
        sse_bucket_key_enabled=False,
        server_side_encryption="AES256",  # says nothing on a GET, which is all that is sent from here
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "allow_invalid_certificates": False,
            "connect_timeout": f"{round(options.connect_timeout_seconds * 1000)}ms",
            # Silence is what ends a read, as with boto3. ``timeout`` counts the whole response and would kill a slow
            # link that still delivers; it is only the last resort against a server that sends a byte now and then.
            "read_timeout": f"{round(read_seconds * 1000)}ms",
            "timeout": f"{round(read_seconds * 60_000)}ms",
            "user_agent": "artifact-creds",
        },
        retry_config={"max_retries": 0},
    )


class _Owed(asyncio.Future[Any]):
    """A future of obstore's; see :class:`_EventLoop`."""

    owing: set[_Owed] | None = None

    def cancelled(self) -> bool:
        gone = super().cancelled()
        # Asked from its own thread, obstore looks whether anybody still wants the result: a yes ends its part.
        if gone and self.owing is not None and threading.current_thread().name != _LOOP_NAME:
            self.owing.discard(self)
        return gone


class _EventLoop(asyncio.SelectorEventLoop):
    """An event loop that knows which results obstore's threads have still to hand over.

    Such a thread needs the interpreter once more after it woke us. If the interpreter is shutting down by then, the
    whole process aborts (seen in one of three programs that fetched one object and ended). So whoever stops the loop
    waits until nothing is owed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owing: set[_Owed] = set()

    def create_future(self) -> asyncio.Future[Any]:
        return _Owed(loop=self)

    def call_soon_threadsafe(  # type: ignore[override]  # passes on whatever it is given
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        finally:
            if args and isinstance(args[0], _Owed):
                self.owing.discard(args[0])


async def _owed(result: Awaitable[T]) -> T:
    """Await what obstore returned, and remember meanwhile that it is owed."""
    loop = asyncio.get_running_loop()
    if isinstance(result, _Owed) and isinstance(loop, _EventLoop):
        result.owing = loop.owing
        loop.owing.add(result)
    return await result


_LOOP_NAME = "creds-s3-loop"


class _Loop:
    """An event loop in a thread of its own: obstore's calls run here, and cancelling one closes its socket at once."""

    def __init__(self) -> None:
        self.loop = _EventLoop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=_LOOP_NAME, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_default_executor()
        ends = self.loop.time() + _OWED_SECONDS
        # Polled, because the last thing an obstore thread does is not an event that anybody could be told of.
        while self.loop.owing and self.loop.time() < ends:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.002)  # the last of them leaves the interpreter

    def stop(self) -> None:
        """End the thread, and with it every call; returns when nothing of it is left."""
        if self._pid != os.getpid():
            return  # the thread is the parent's
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(_ABORT_SECONDS)


# --- the store -------------------------------------------------------------------------------------------------------


def _plain(key: str) -> bool:
    """Can obstore be trusted with this key? It refuses or rewrites empty and dot segments and control characters."""
    return all(part not in {"", ".", ".."} for part in key.split("/")) and not any(c < " " or c == "\x7f" for c in key)


def _identity(keys: AwsKeys | None) -> tuple[str, str, str | None] | None:
    if keys is None:
        return None
    token = keys.token
    return keys.access_key, keys.secret_key, token


class S3Store:
    """One bucket on one S3 server, as one identity. Making one does no I/O and loads neither engine.

    Args:
        bucket: its name.
        endpoint_url: the server, or None for AWS in ``region``.
        region: signed into every request.
        provider: called for a snapshot of keys whenever some are needed; None signs nothing (anonymous).
        options: timeouts, retries, the window and the size of parts.
        on_aws: the server is AWS itself, which holds conditions on writes (documented since 2024-11).
        addressing: ``path`` puts the bucket into the path, ``virtual`` into the host's name.
        checksums: let boto3 send its default checksums, which many servers other than AWS refuse.
        guard: called once, before the first connection; what it raises is what the verb raises.
        location: the masked ``s3://host/bucket`` that errors name.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None,
        region: str,
        provider: CredentialProvider | None,
        options: StoreOptions,
        on_aws: bool,
        addressing: Literal["path", "virtual"],
        checksums: bool,
        guard: Callable[[], None] | None = None,
        location: str = "",
    ) -> None:
        self.bucket = bucket
        self.options = options
        self.checksums = checksums
        self.window = options.window or Window()
        self._endpoint_url = endpoint_url
        self._region = region
        self._provider = provider
        self._virtual = addressing == "virtual"
        self._guard = guard
        self._location = location or f"s3://{bucket}"
        self._lock = threading.RLock()
        self._enforces: bool | None = True if on_aws else None
        self._ranged = True
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._boto: Any = None
        self._obstore: tuple[Any, Any] | None = None
        self._loop: _Loop | None = None
        self._stopper: weakref.finalize[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<S3Store {self._location}>"

    # The engines, each made when first needed. After a fork they are made again: threads and sockets do not survive it.

    def _ready(self) -> None:
        if self._closed:
            raise StoreError(f"{self._location}: the store was closed", location=self._location)
        if self._pid != os.getpid():
            self._lock = threading.RLock()
            self._reset()
        if self._guard is not None:
            with self._lock:
                if self._guard is not None:
                    self._guard()
                    self._guard = None

    @property
    def client(self) -> Any:
        """The live boto3 client: it signs with this store's provider and shares its connections."""
        self._ready()
        with self._lock:
            if self._boto is None:
                self._boto = _boto_client(
                    self.options,
                    endpoint_url=self._endpoint_url,
                    region=self._region,
                    provider=self._provider,
                    addressing="virtual" if self._virtual else "path",
                    checksums=self.checksums,
                )
            return self._boto

    def reader(self) -> tuple[Any, retry.Refresh | None]:
        """The obstore store that signs with the keys of this moment, and whom to ask when they are refused."""
        keys = None if self._provider is None else self._provider()
        identity = _identity(keys)
        with self._lock:
            if self._obstore is None or self._obstore[0] != identity:
                made = _obstore_store(
                    self.bucket,
                    self.options,
                    endpoint_url=self._endpoint_url,
                    region=self._region,
                    keys=keys,
                    virtual=self._virtual,
                )
                self._obstore = (identity, made)
            return self._obstore[1], None if keys is None else self._refresh_of(identity)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that obstore's calls run on."""
        self._ready()
        with self._lock:
            if self._loop is None:
                self._loop = _Loop()
                self._stopper = weakref.finalize(self, self._loop.stop)
            return self._loop.loop

    def close(self) -> None:
        with self._lock:
            self._closed = True
            boto, stopper = self._boto, self._stopper
            if self._pid != os.getpid():
                stopper = None
            self._boto = self._obstore = self._loop = self._stopper = None
        if stopper is not None:
            stopper()
        if boto is not None:
            boto.close()

    # Speaking to boto3.

    def where(self, key: str) -> str:
        """The masked location of one key."""
        return f"{self._location}/{_shown(key)}"

    @contextmanager
    def speaking(self, op: str, key: str, cancel: Cancel | None = None) -> Iterator[None]:
        """Turn what boto3 raises in the block into this toolkit's errors."""
        boto, http = _sdk("botocore.exceptions"), _sdk("urllib3.exceptions")
        try:
            yield
        except ToolkitError:
            raise
        except (boto.BotoCoreError, boto.ClientError, http.HTTPError, OSError) as error:
            if cancel is not None:
                cancel.check()
            raise _error(_from_boto(error), op, self.where(key)) from error

    def refresher(self) -> retry.Refresh | None:
        """Answers, about keys that were refused, whether the provider now has others."""
        return None if self._provider is None else self._refresh_of(_identity(self._provider()))

    def _refresh_of(self, used: tuple[str, str, str | None] | None) -> retry.Refresh:
        def refresh(error: ToolkitError) -> bool:
            assert self._provider is not None
            return isinstance(error, Unauthenticated) and _identity(self._provider()) != used

        return refresh

    def call(
        self,
        op: str,
        key: str,
        work: Callable[[Any], T],
        *,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
        retries: Retries | None = None,
        wire: _Wire | None = None,
    ) -> T:
        """Do one idempotent request with boto3, in this thread, with retries."""

        def attempt() -> T:
            client = self.client
            with self.speaking(op, key, cancel), _on(wire):
                return work(client)

        schedule = retry.Schedule(op, retries or self.options.retries, on_retry=on_retry)
        return retry.run(attempt, schedule, cancel=cancel, refresh=self.refresher())

    def stoppable(self, work: Callable[[_Wire | None], T], cancel: Cancel | None) -> T:
        """Do ``work`` so that ``cancel`` ends it at once, even inside a call that cannot be interrupted."""
        if cancel is None:
            return work(None)
        cancel.check()
        wire = _Wire()
        with cancel.calling(wire.stop):
            future = _spawn(lambda: work(wire), wire)
            try:
                _first_of(future, wire.over)
                if cancel.cancelled:
                    concurrent.futures.wait((future,), timeout=_STOP_SECONDS)
                    cancel.check()
                return future.result()
            finally:
                wire.stop()

    # The verbs.

    def open(
        self,
        key: str,
        *,
        start: int = 0,
        if_match: str | None = None,
        cancel: Cancel | None = None,
        on_retry: OnRetry | None = None,
    ) -> Reading:
        if self._ranged and _plain(key):
            ranges = _Ranges(self, key, start, if_match, cancel, on_retry)
            try:
                return ranges.begin()
            except _Unranged:
                self._ranged = False  # one plain stream still works, here and for the next object
        return _Stream(self, key, start, if_match, cancel, on_retry).begin()

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
        """Write all of ``buffers`` as ``key``; see :meth:`creds.store.Store.write`.

        Where the server does not enforce conditions (:attr:`enforces_conditions`), they are compared with a HEAD
        before the first byte and again just before the object is published. Another writer between that HEAD and the
        publishing is not noticed: that race is the server's, and cannot be closed from here.
        """
        described: dict[str, Any] = {}
        if content_type is not None:
            described["ContentType"] = content_type
        if metadata:
            described["Metadata"] = dict(metadata)
        upload = _Upload(self, key, described, if_match, if_none_match, cancel or Cancel(), on_retry)
        return upload.run(buffers, size_hint_bytes)

    def head(self, key: str, *, cancel: Cancel | None = None) -> ObjectMeta:
        return self.stoppable(lambda wire: self.head_here(key, cancel, wire), cancel)

    def head_here(
        self, key: str, cancel: Cancel | None, wire: _Wire | None, on_retry: OnRetry | None = None
    ) -> ObjectMeta:
        """As :meth:`head`, in this thread."""

        def ask(**ranged: str) -> Callable[[Any], ObjectMeta]:
            def get(client: Any) -> ObjectMeta:
                response = client.get_object(Bucket=self.bucket, Key=key, **ranged)
                response["Body"].close()
                return _meta(key, response)

            return get

        call = functools.partial(self.call, "head", key, cancel=cancel, on_retry=on_retry, wire=wire)
        try:
            return call(lambda client: _meta(key, client.head_object(Bucket=self.bucket, Key=key)))
        except StoreError as error:
            if error.http_status is None or error.retryable:
                raise
        # The answer to a HEAD has no body, so it cannot tell a missing key from a missing bucket, or wrong keys from
        # a lacking permission; a GET of one byte can.
        try:
            return call(ask(Range="bytes=0-0"))
        except StoreError as error:
            if error.http_status != 416:
                raise
        return call(ask())  # empty: no range of it exists

    def list(self, prefix: str = "", *, cancel: Cancel | None = None) -> Iterator[ObjectMeta]:
        token: str | None = None
        while True:
            asked = {"ContinuationToken": token} if token is not None else {}

            def page(client: Any, asked: dict[str, str] = asked) -> Any:
                return client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **asked)

            answer = self.stoppable(
                lambda wire, page=page: self.call("list", prefix, page, cancel=cancel, wire=wire),  # type: ignore[misc]  # a default argument defeats inference
                cancel,
            )
            for entry in answer.get("Contents", ()):
                yield ObjectMeta(
                    key=entry["Key"],
                    size_bytes=entry.get("Size"),
                    etag=_quoted(entry.get("ETag")),
                    modified=_utc(entry.get("LastModified")),
                )
            if not answer.get("IsTruncated"):
                return
            before, token = token, answer.get("NextContinuationToken")
            if token is None or token == before:
                where = self.where(prefix)
                raise StoreError(f"list {where}: the server's pages do not end", op="list", location=where)

    def delete(self, key: str, *, cancel: Cancel | None = None) -> None:
        def remove(client: Any) -> None:
            client.delete_object(Bucket=self.bucket, Key=key)

        try:
            self.stoppable(lambda wire: self.call("delete", key, remove, cancel=cancel, wire=wire), cancel)
        except ObjectNotFound:
            return  # some servers do tell; it is gone either way

    def sign(self, key: str, method: str = "GET", *, expires_seconds: int = 3600) -> str:
        """A presigned URL for GET or PUT. Its life is the shorter of ``expires_seconds`` and the keys' own.

        Raises:
            NotSupported: another method, or an anonymous store.
            ValueError: ``expires_seconds`` is not within 1 second and 7 days, which is S3's limit.
        """
        where = self.where(key)
        calls = {"GET": "get_object", "PUT": "put_object"}
        if method not in calls:
            raise NotSupported(f"sign {where}: only GET and PUT can be signed", op="sign", location=where)
        if self._provider is None:
            raise NotSupported(f"sign {where}: an anonymous store has no keys to sign with", op="sign", location=where)
        if not 1 <= expires_seconds <= 7 * 24 * 3600:
            raise ValueError(f"expires_seconds is {expires_seconds}; S3 signs for 1 second to 7 days")
        client = self.client
        with self.speaking("sign", key):
            url: str = client.generate_presigned_url(
                calls[method], Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=expires_seconds
            )
        return url

    # Conditions on writes.

    @property
    def enforces_conditions(self) -> bool:
        return self.enforces_near("")

    def enforces_near(
        self, key: str, *, cancel: Cancel | None = None, on_retry: OnRetry | None = None, wire: _Wire | None = None
    ) -> bool:
        """As :attr:`enforces_conditions`; the question is put beside ``key``, where the policy lets us write."""
        if self._enforces is None:
            folder = key.rpartition("/")[0]
            scratch = f"{folder}/.condition-{secrets.token_hex(8)}".lstrip("/")
            self._enforces = self._probe(scratch, cancel, on_retry, wire)
        return self._enforces

    def distrust_conditions(self) -> None:
        """Remember that the server does not handle conditions as it should."""
        self._enforces = False

    def _probe(self, scratch: str, cancel: Cancel | None, on_retry: OnRetry | None, wire: _Wire | None) -> bool:
        """Ask to overwrite, if it has an ETag that it cannot have, an object that does not exist.

        A server that holds conditions refuses (412, or 404) and stores nothing. One that stores the object does not.
        """
        call = functools.partial(self.call, "write", scratch, cancel=cancel, on_retry=on_retry, wire=wire)
        impossible = f'"{"0" * 32}"'
        try:
            call(lambda client: client.put_object(Bucket=self.bucket, Key=scratch, Body=b"", IfMatch=impossible))
        except (ObjectChanged, ObjectNotFound):
            return True
        except (BucketNotFound, Unauthenticated):
            raise
        except StoreError as error:
            if error.retryable:
                raise
            return False
        # Best effort: the answer is known, and the write that asked for it will tell what is wrong.
        with contextlib.suppress(StoreError):
            call(lambda client: client.delete_object(Bucket=self.bucket, Key=scratch))
        return False


def _quoted(etag: str | None) -> str | None:
    """An ETag as HTTP writes it; some servers leave out the quotes in a listing."""
    if not etag or etag.startswith(('"', "W/")):
        return etag or None
    return f'"{etag}"'


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


def _meta(key: str, response: Mapping[str, Any]) -> ObjectMeta:
    """boto3's answer to a HEAD, GET or PUT."""
    size = response.get("ContentLength")
    ranged = response.get("ContentRange")
    if ranged is not None:
        total = str(ranged).rpartition("/")[2]
        size = int(total) if total.isdecimal() else None
    version = response.get("VersionId")
    return ObjectMeta(
        key=key,
        size_bytes=size,
        etag=_quoted(response.get("ETag")),
        version=None if version == "null" else version,
        modified=_utc(response.get("LastModified")),
        checksums={
            name.removeprefix("Checksum").lower(): value
            for name, value in response.items()
            if name.startswith("Checksum") and name != "ChecksumType" and "-" not in str(value)
        },
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def _is_strong(etag: str | None) -> bool:
    return etag is not None and not etag.startswith("W/")


class _Reading:
    """What both kinds of reading share: who they read for, and how they stop."""

    def __init__(
        self,
        store: S3Store,
        key: str,
        start: int,
        if_match: str | None,
        cancel: Cancel | None,
        on_retry: OnRetry | None,
    ) -> None:
        self._store = store
        self._key = key
        self._start = start
        self._if_match = if_match
        self._cancel = cancel
        self._on_retry = on_retry
        self._where = store.where(key)
        self._meta: ObjectMeta | None = None
        self._lock = threading.RLock()  # another thread may close what this one reads
        self._closed = False
        self._stack = ExitStack()
        self._share = self._stack.enter_context(store.window.stream())

    @property
    def meta(self) -> ObjectMeta:
        assert self._meta is not None
        return self._meta

    def __iter__(self) -> Iterator[Buffer]:
        return self

    def __next__(self) -> Buffer:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop: whoever reads in another thread gets Cancelled."""
        with self._lock:
            self._closed = True
            self._stack.close()

    def _check_open(self) -> None:
        if self._cancel is not None:
            self._cancel.check()
        if self._closed:
            raise Cancelled(f"open {self._where}: closed while it was read")

    def _schedule(self) -> retry.Schedule:
        return retry.Schedule("open", self._store.options.retries, on_retry=self._on_retry)

    def _check(self, now: ObjectMeta) -> None:
        """Refuse an answer about another generation: not every server holds If-Match.

        Without a strong ETag only size and time can tell.
        """
        first = self._meta
        if first is None:
            same = self._if_match is None or now.etag == self._if_match
            said = "not the expected object"
        else:
            same = first.etag == now.etag and first.size_bytes == now.size_bytes
            same = same and (_is_strong(first.etag) or first.modified == now.modified)
            said = "the object changed while it was read"
        if not same:
            raise ObjectChanged(f"open {self._where}: {said}", op="open", location=self._where)

    def _beyond(self, size: int | None) -> ObjectChanged:
        return ObjectChanged(
            f"open {self._where}: cannot start at byte {self._start} of {size}", op="open", location=self._where
        )


class _Ranges(_Reading):
    """Parts of the object, each a ranged GET with ``If-Match``, some ahead of the one that is wanted."""

    def __init__(
        self,
        store: S3Store,
        key: str,
        start: int,
        if_match: str | None,
        cancel: Cancel | None,
        on_retry: OnRetry | None,
    ) -> None:
        super().__init__(store, key, start, if_match, cancel, on_retry)
        self._part = store.options.part_bytes
        self._next = start  # where the next part to ask for begins
        self._pending: deque[tuple[int, concurrent.futures.Future[Any]]] = deque()
        self._handed = 0  # bytes of the buffer handed out last: counted until the next one is asked for
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stack.callback(self._stop)

    @property
    def pinned(self) -> str:
        if self.meta.size_bytes is not None and self.meta.size_bytes - self._start <= self._part:
            return "etag" if self._if_match is not None and _is_strong(self.meta.etag) else "none"
        return "etag" if _is_strong(self.meta.etag) else "weak"

    def begin(self) -> Self:
        """Send the first GET and wait for its headers: they carry size and ETag, so no HEAD is needed."""
        try:
            if self._cancel is not None:
                self._cancel.check()
                self._stack.enter_context(self._cancel.calling(self._stop))
            self._loop = self._store.loop()
            known: concurrent.futures.Future[None] = concurrent.futures.Future()
            self._share.take(self._part)
            reader, refresh = self._store.reader()
            first = self._submit(self._part, reader, refresh, known)
            first.add_done_callback(lambda done: _pass_on(done, known))
            self._wait(known)
            assert self.meta.size_bytes is not None
            count = max(0, min(self._part, self.meta.size_bytes - self._start))
            self._share.give(self._part - count)
            self._pending[0] = (count, first)
            self._next = self._start + count
        except BaseException:
            self.close()
            raise
        return self

    def __next__(self) -> Buffer:
        reader, refresh = self._store.reader()
        with self._lock:
            self._check_open()
            self._share.give(self._handed)
            self._handed = 0
            self._fill(reader, refresh)
            if not self._pending:
                raise StopIteration
            count, future = self._pending[0]
        content = self._wait(future)
        with self._lock:
            self._check_open()
            self._pending.popleft()
            self._handed = count
            self._fill(reader, refresh)
        if not count:
            raise StopIteration
        return memoryview(content).cast("B")

    def _fill(self, reader: Any, refresh: retry.Refresh | None) -> None:
        """Ask for as many parts ahead as may be; the one that is wanted next always may."""
        size = self.meta.size_bytes
        assert size is not None
        while self._next < size and len(self._pending) < self._store.options.parallel_parts:
            count = min(self._part, size - self._next)
            if not self._pending and not self._handed:
                self._share.take(count)
            elif not self._share.try_take(count):
                return
            self._submit(count, reader, refresh, None)
            self._next += count

    def _submit(
        self,
        count: int,
        reader: Any,
        refresh: retry.Refresh | None,
        known: concurrent.futures.Future[None] | None,
    ) -> concurrent.futures.Future[Any]:
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(self._get(self._next, count, reader, refresh, known), self._loop)
        self._pending.append((count, future))
        return future

    def _wait(self, future: concurrent.futures.Future[T]) -> T:
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._cancel is not None:
                self._cancel.check()
            raise Cancelled(f"open {self._where}: closed while it was read") from None

    def _stop(self) -> None:
        with self._lock:
            for _, future in self._pending:
                future.cancel()

    async def _get(
        self,
        start: int,
        count: int,
        reader: Any,
        refresh: retry.Refresh | None,
        known: concurrent.futures.Future[None] | None,
    ) -> Any:
        """One part, whole, on the event loop. ``known`` is told when the first headers are here."""

        def refreshed(error: ToolkitError) -> bool:
            nonlocal reader
            if refresh is None or not refresh(error):
                return False
            reader = self._store.reader()[0]
            return True

        async def attempt() -> Any:
            result = await self._request(reader, start, count)
            if known is not None and not known.done():
                known.set_result(None)
            if result is None:
                return b""
            with self._speaking():
                content = await _owed(result.bytes_async())
            size = self.meta.size_bytes
            assert size is not None
            if len(content) != min(count, size - start):
                raise StoreUnavailable(f"open {self._where}: the answer was cut short", op="open", location=self._where)
            return content

        return await retry.run_async(attempt, self._schedule(), refresh=refreshed)

    async def _request(self, reader: Any, start: int, count: int) -> Any:
        """The response to one ranged GET, checked against the first one's; None when there is nothing to read."""
        import obstore

        pinned = self._meta
        options: dict[str, Any] = {"range": (start, start + count)}
        condition = self._if_match
        if pinned is not None and _is_strong(pinned.etag):
            condition = pinned.etag
        if condition is not None:
            options["if_match"] = condition
        try:
            with self._speaking():
                result = await _owed(obstore.get_async(reader, self._key, options=options))  # type: ignore[arg-type]  # a TypedDict made in steps
        except StoreError as error:
            if error.http_status == 416 and pinned is None:
                return await self._empty(reader)
            if error.http_status == 416 or (pinned is not None and isinstance(error, ObjectNotFound)):
                message = f"open {self._where}: the object changed while it was read"
                raise ObjectChanged(message, op="open", location=self._where) from error
            raise
        now = _obstore_meta(self._key, result.meta)
        self._check(now)
        if pinned is None:
            self._meta = now
        return result

    async def _empty(self, reader: Any) -> None:
        """Nothing lies at ``start``: fine where that is the object's end. A plain GET of what may be empty tells."""
        import obstore

        options = {} if self._if_match is None else {"if_match": self._if_match}
        with self._speaking():
            result = await _owed(obstore.get_async(reader, self._key, options=options))  # type: ignore[arg-type]  # as above
        meta = _obstore_meta(self._key, result.meta)
        size = meta.size_bytes or 0
        if size < self._start:
            raise self._beyond(size)
        if size > self._start:
            # It grew between the two requests; the next try reads what is there now.
            message = f"open {self._where}: the object is being replaced"
            raise StoreUnavailable(message, op="open", location=self._where)
        self._check(meta)
        self._meta = meta

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turn what obstore raises in the block into this toolkit's errors."""
        from obstore.exceptions import BaseError

        try:
            yield
        except ToolkitError:
            raise
        except (BaseError, OSError) as error:
            if any(mark in str(error) for mark in _OBSTORE_UNRANGED) and self._meta is None:
                raise _Unranged("not a ranged answer") from error
            raise _error(_from_obstore(error, self._key), "open", self._where) from error


def _pass_on(done: concurrent.futures.Future[Any], known: concurrent.futures.Future[None]) -> None:
    """A first part that ends before its headers came ends the wait for them."""
    if known.done():
        return
    if done.cancelled():
        known.cancel()
        known.set_running_or_notify_cancel()
    elif (error := done.exception()) is not None:
        known.set_exception(error)


def _obstore_meta(key: str, meta: Mapping[str, Any]) -> ObjectMeta:
    modified: datetime | None = meta["last_modified"]
    if modified is not None and modified == datetime.fromtimestamp(0, UTC):
        modified = None  # obstore's stand-in for a header that was not there
    version = meta.get("version")
    return ObjectMeta(
        key=key,
        size_bytes=meta["size"],
        etag=meta.get("e_tag"),
        version=None if version == "null" else version,
        modified=modified,
    )


class _Stream(_Reading):
    """One GET by boto3, resumed at its byte when it breaks: for the keys that obstore alters or refuses."""

    def __init__(
        self,
        store: S3Store,
        key: str,
        start: int,
        if_match: str | None,
        cancel: Cancel | None,
        on_retry: OnRetry | None,
    ) -> None:
        super().__init__(store, key, start, if_match, cancel, on_retry)
        self._position = start
        self._body: Any = None
        self._wire = _Wire()
        self._share.take(STREAM_BYTES)
        self._stack.callback(self._shut)
        self._stack.callback(self._wire.stop)

    @property
    def pinned(self) -> str:
        return "etag" if _is_strong(self.meta.etag) else "weak"

    def begin(self) -> Self:
        try:
            if self._cancel is not None:
                self._stack.enter_context(self._cancel.calling(self._wire.stop))
            self._store.stoppable(self._reopen, self._cancel)
        except BaseException:
            self.close()
            raise
        return self

    def __next__(self) -> Buffer:
        chunk: bytes = retry.run(self._read, self._schedule(), cancel=self._cancel, refresh=self._store.refresher())
        if not chunk:
            raise StopIteration
        return chunk

    def _read(self) -> bytes:
        self._check_open()
        if self._body is None:
            self._store.stoppable(self._reopen, self._cancel)
        size = self.meta.size_bytes
        try:
            with self._store.speaking("open", self._key, self._cancel), _on(self._wire):
                chunk: bytes = self._body.read(STREAM_BYTES)
                if not chunk and size is not None and self._position < size:
                    raise ConnectionResetError("the body ended early")
        except StoreError:
            self._check_open()
            self._shut()
            raise
        self._position += len(chunk)
        return chunk

    def _reopen(self, wire: _Wire | None) -> None:
        """Ask for the object from where the reading stands, in its first generation."""
        pinned = self._meta
        asked: dict[str, str] = {}
        if self._position:
            asked["Range"] = f"bytes={self._position}-"
        condition = pinned.etag if pinned is not None and _is_strong(pinned.etag) else self._if_match
        if condition is not None:
            asked["IfMatch"] = condition

        def get(client: Any) -> Any:
            with _on(self._wire):
                return client.get_object(Bucket=self._store.bucket, Key=self._key, **asked)

        once = Retries(attempts=1) if pinned is not None else None  # a reading under way is repeated by its own loop
        try:
            response = self._store.call(
                "open", self._key, get, cancel=self._cancel, on_retry=self._on_retry, retries=once, wire=wire
            )
        except StoreError as error:
            if pinned is not None and (error.http_status == 416 or isinstance(error, ObjectNotFound)):
                message = f"open {self._where}: the object changed while it was read"
                raise ObjectChanged(message, op="open", location=self._where) from error
            if error.http_status != 416:
                raise
            meta = self._store.head_here(self._key, self._cancel, wire, self._on_retry)
            if meta.size_bytes != self._position:
                raise self._beyond(meta.size_bytes) from error
            self._meta, self._body = meta, _Ended()
            return
        self._body = response["Body"]
        meta = _meta(self._key, response)
        self._check(meta)
        self._meta = meta
        # By the header, not the status: rclone sends the right bytes as a 200.
        ranged = str(response.get("ContentRange", ""))
        if self._position and not ranged.startswith(f"bytes {self._position}-"):
            message = f"open {self._where}: the server does not answer ranges"
            raise NotSupported(message, op="open", location=self._where)

    def _shut(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


class _Ended:
    """The body of a GET that begins at the object's end."""

    def read(self, _count: int) -> bytes:
        return b""

    def close(self) -> None:
        return


# --- writing ---------------------------------------------------------------------------------------------------------


def first_part_bytes(size_hint_bytes: int | None, part_bytes: int) -> int:
    """The size of an upload's parts: at least 8 MiB, and for a known size one that needs at most 9,000 of them."""
    smallest = max(MIN_UPLOAD_PART_BYTES, part_bytes)
    if size_hint_bytes is None:
        return smallest
    needed = -(-size_hint_bytes // HINTED_PARTS)
    return max(smallest, -(-needed // (1 << 20)) << 20)


def part_bytes_at(number: int, first: int, *, hinted: bool) -> int:
    """The size of part ``number`` (from 1).

    S3 takes 10,000 parts. While the size is unknown parts are equal for 800 numbers and then double, up to 1 GiB: that
    reaches 5 TiB, S3's largest object, and starts with a memory that suits small ones. (Equal parts for as long as
    possible, because some servers want all but the last alike.) With a hint, only what goes past it doubles.
    """
    steps = max(0, number - 1 - HINTED_PARTS) // 100 if hinted else (number - 1) // UNHINTED_STEP
    return max(first, min(MAX_UPLOAD_PART_BYTES, first << min(steps, 40)))


class _Gather:
    """Buffers of any size in, pieces of the size asked for out."""

    def __init__(self, buffers: Iterable[Buffer], check: Callable[[], None]) -> None:
        self._buffers = iter(buffers)
        self._check = check
        self._rest = memoryview(b"")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer only at the end."""
        held: list[Buffer] = []
        size = 0
        while size < count:
            if not len(self._rest):
                self._check()
                try:
                    whole = next(self._buffers)
                except StopIteration:
                    break
                if not held and type(whole) is bytes and len(whole) == count:
                    return whole
                self._rest = memoryview(whole).cast("B")
                continue
            piece = self._rest[: count - size]
            self._rest = self._rest[len(piece) :]
            held.append(piece)
            size += len(piece)
        return b"".join(held)


class _Upload:
    """One write: a single PUT when it fits into one part, else parts side by side, published only when complete."""

    def __init__(
        self,
        store: S3Store,
        key: str,
        described: Mapping[str, Any],
        if_match: str | None,
        if_none_match: bool,
        cancel: Cancel,
        on_retry: OnRetry | None,
    ) -> None:
        self._store = store
        self._key = key
        self._target = {"Bucket": store.bucket, "Key": key}
        self._described = described
        self._if_match = if_match
        self._if_none_match = if_none_match
        self._cancel = cancel
        self._on_retry = on_retry
        self._where = store.where(key)
        self._wire = _Wire()
        self._running: dict[concurrent.futures.Future[dict[str, Any]], int] = {}
        self._done: list[dict[str, Any]] = []
        self._size = 0

    def run(self, buffers: Iterable[Buffer], size_hint_bytes: int | None) -> ObjectMeta:
        self._cancel.check()
        first = first_part_bytes(size_hint_bytes, self._store.options.part_bytes)
        gather = _Gather(buffers, self._cancel.check)
        with self._cancel.calling(self._wire.stop), self._store.window.stream() as share:
            self._share = share
            if self._conditional:
                self._here(self._compare_unless_enforced)
            share.take(first)
            content = gather.take(first)
            share.give(first - len(content))
            if len(content) < first:
                self._size = len(content)
                return self._here(lambda: self._put(content))
            return self._multipart(gather, content, first, hinted=size_hint_bytes is not None)

    @property
    def _conditional(self) -> bool:
        return self._if_match is not None or self._if_none_match

    def _here(self, work: Callable[[], T]) -> T:
        """Do ``work`` in a thread of its own, and stop waiting for it when the write is stopped."""
        future = _spawn(work, self._wire)
        self._wait_for(future)
        return future.result()

    def _wait_for(self, *futures: concurrent.futures.Future[Any]) -> None:
        """Wait until one of ``futures`` is done or the write is stopped, which is raised."""
        _first_of(*futures, self._wire.over)
        if self._cancel.cancelled:
            concurrent.futures.wait(futures, timeout=_STOP_SECONDS)
            self._cancel.check()

    def _call(self, work: Callable[[Any], T]) -> T:
        return self._store.call("write", self._key, work, cancel=self._cancel, on_retry=self._on_retry, wire=self._wire)

    # Conditions.

    def _headers(self) -> dict[str, str]:
        if not self._conditional or not self._enforced():
            return {}
        return {"IfNoneMatch": "*"} if self._if_none_match else {"IfMatch": self._if_match or ""}

    def _enforced(self) -> bool:
        return self._store.enforces_near(self._key, cancel=self._cancel, on_retry=self._on_retry, wire=self._wire)

    def _compare_unless_enforced(self) -> None:
        if self._conditional and not self._enforced():
            self._compare()

    def _compare(self) -> None:
        """Hold the condition by looking: all that can be done where the server does not hold it."""
        now = self._now()
        if self._if_none_match and now is not None:
            raise self._conflict("the object exists already")
        if self._if_match is not None and (now is None or now.etag != self._if_match):
            raise self._conflict("the object is not the expected one")

    def _now(self) -> ObjectMeta | None:
        try:
            return self._store.head_here(self._key, self._cancel, self._wire, self._on_retry)
        except ObjectNotFound:
            return None

    def _conflict(self, said: str) -> ObjectChanged:
        return ObjectChanged(f"write {self._where}: {said}", op="write", location=self._where)

    def _publish(self, send: Callable[[Any, dict[str, str]], Any], etag: Callable[[], str | None]) -> ObjectMeta:
        """Make the object appear, under its condition.

        A response that was lost on the way makes the next try fail its condition (or find its upload gone) although the
        write succeeded. So after a first try that ended without an answer a refusal is believed only when the object
        that is there is not ours; ``etag`` says what ours would carry.
        """
        self._compare_unless_enforced()
        uncertain = False

        def attempt(client: Any) -> ObjectMeta:
            nonlocal uncertain
            headers = self._headers()
            try:
                with self._store.speaking("write", self._key, self._cancel):
                    response = send(client, headers)
            except StoreError as error:
                if uncertain and isinstance(error, ObjectChanged | ObjectNotFound):
                    ours = self._ours(etag())
                    if ours is not None:
                        return ours
                if isinstance(error, ObjectChanged) and self._if_match is not None:
                    self._check_refusal(error)
                if isinstance(error, ObjectNotFound) and headers and not uncertain:
                    response = self._unconditionally(client, send, error)
                else:
                    uncertain = uncertain or error.retryable
                    raise
            meta = _meta(self._key, response)
            return ObjectMeta(
                key=self._key,
                size_bytes=self._size,
                etag=meta.etag,
                version=meta.version,
                checksums=meta.checksums,
            )

        return self._call(attempt)

    def _ours(self, etag: str | None) -> ObjectMeta | None:
        now = self._now()
        if now is None or etag is None or now.etag != etag or now.size_bytes != self._size:
            return None
        return now

    def _check_refusal(self, error: ObjectChanged) -> None:
        now = self._now()
        if now is not None and now.etag == self._if_match:
            raise NotSupported(
                f"write {self._where}: the server refuses If-Match although the ETag matches",
                op="write",
                location=self._where,
                http_status=error.http_status,
                server_code=error.server_code,
                hint="this server cannot replace an object conditionally",
            ) from error

    def _unconditionally(self, client: Any, send: Callable[[Any, dict[str, str]], Any], error: StoreError) -> Any:
        """Some servers answer 404 to any condition on CompleteMultipartUpload: hold it by looking instead."""
        if self._if_match is not None and self._now() is None:
            raise self._conflict("the object is not the expected one") from error
        self._store.distrust_conditions()
        self._compare()
        with self._store.speaking("write", self._key, self._cancel):
            return send(client, {})

    # One PUT.

    def _put(self, content: bytes) -> ObjectMeta:
        def send(client: Any, headers: dict[str, str]) -> Any:
            return client.put_object(**self._target, **self._described, **headers, Body=content)

        def etag() -> str:
            return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'

        return self._publish(send, etag)

    # Parts.

    def _multipart(self, gather: _Gather, content: bytes, first: int, *, hinted: bool) -> ObjectMeta:
        more = {"ChecksumAlgorithm": "CRC32"} if self._store.checksums else {}
        upload_id: str = self._here(
            lambda: self._call(
                lambda client: client.create_multipart_upload(**self._target, **self._described, **more)["UploadId"]
            )
        )
        try:
            number = 1
            while content:
                self._send(upload_id, number, content)
                number += 1
                count = part_bytes_at(number, first, hinted=hinted)
                self._make_room(count)
                content = gather.take(count)
                self._share.give(count - len(content))
            while self._running:
                self._reap()
            return self._here(lambda: self._complete(upload_id))
        except BaseException as error:
            self._abort(upload_id, quick=self._cancel.cancelled or not isinstance(error, Exception))
            raise

    def _send(self, upload_id: str, number: int, content: bytes) -> None:
        if number > MAX_PARTS:
            message = f"write {self._where}: larger than {MAX_PARTS} parts hold"
            raise StoreError(message, op="write", location=self._where, hint="give a size hint")
        self._size += len(content)

        def send(client: Any) -> dict[str, Any]:
            answer = client.upload_part(**self._target, UploadId=upload_id, PartNumber=number, Body=content)
            sums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
            sums.pop("ChecksumType", None)
            return {"PartNumber": number, "ETag": answer["ETag"], **sums}

        self._running[_spawn(lambda: self._call(send), self._wire)] = len(content)

    def _make_room(self, count: int) -> None:
        """Wait until the next part may be gathered: at once when none is on its way, else within the window."""
        while self._running:
            if len(self._running) < self._store.options.parallel_parts and self._share.try_take(count):
                return
            self._reap()
        self._share.take(count)

    def _reap(self) -> None:
        """Wait for a part to arrive, and account for all that have."""
        self._wait_for(*self._running)
        for future in [future for future in self._running if future.done()]:
            self._share.give(self._running.pop(future))
            self._done.append(future.result())

    def _complete(self, upload_id: str) -> ObjectMeta:
        parts = sorted(self._done, key=lambda part: int(part["PartNumber"]))

        def send(client: Any, headers: dict[str, str]) -> Any:
            return client.complete_multipart_upload(
                **self._target, **headers, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )

        return self._publish(send, lambda: _etag_of_parts([str(part["ETag"]) for part in parts]))

    def _abort(self, upload_id: str, *, quick: bool) -> None:
        """Remove the parts, as well as can be done: the failure that led here is what the caller hears of."""
        self._wire.stop()
        concurrent.futures.wait(self._running, timeout=_STOP_SECONDS)
        patience = Retries(attempts=3, for_seconds=_ABORT_SECONDS / 2)

        def abort(client: Any) -> None:
            client.abort_multipart_upload(**self._target, UploadId=upload_id)

        future = _spawn(lambda: self._store.call("write", self._key, abort, retries=patience), None)
        concurrent.futures.wait((future,), timeout=_STOP_SECONDS if quick else _ABORT_SECONDS)


def _etag_of_parts(etags: list[str]) -> str | None:
    """The ETag S3 gives to an object of these parts, where the parts' own are MD5s; None where they are not."""
    digests = [etag.strip('"') for etag in etags]
    if not all(re.fullmatch(r"[0-9a-f]{32}", digest) for digest in digests):
        return None
    whole = hashlib.md5(b"".join(map(bytes.fromhex, digests)), usedforsecurity=False).hexdigest()
    return f'"{whole}-{len(etags)}"'

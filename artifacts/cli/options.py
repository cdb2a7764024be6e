"""What the commands share: their options, and what is made of them. Each loads what it needs when it is called."""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from artifacts.audit import AuditFile
    from artifacts.cli.config import Settings
    from artifacts.cli.configuring import Setting
    from artifacts.cli.session import Session
    from artifacts.errors import RequestError
    from artifacts.limits import Limits
    from artifacts.objects import Access, How
    from artifacts.request import Request
    from artifacts.staging import StagingDir
    from creds.models import Credentials
    from creds.policy import Endpoint, Policy
    from creds.store import S3, StoreOptions


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """A command that makes its options when it is called: of hundreds in all, those of one command are wanted.

    Args:
        options: as they would stand above the function.
    """

    def __init__(self, *args: Any, options: Sequence[Decorator] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._options = options

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if self._options and self.callback is not None:
            whole = self.callback
            for option in reversed(self._options):
                whole = option(whole)
            made = click.command(self.name)(whole)
            self.params, self.callback, self._options = made.params, made.callback, ()
        return super().get_params(ctx)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type


class _Bytes(click.ParamType[int]):
    """A size such as 10GiB, as the request documents write it."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from artifacts.errors import RequestError
        from artifacts.request import parse_size

        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except RequestError:
            self.fail("expected a size such as 500MB or 10GiB", param, ctx)


_DAYS = re.compile(r"(?:(\d{1,9})d)?(.*)", re.DOTALL)


class _Duration(click.ParamType[float]):
    """A time to take: seconds, or a duration as the request documents write it, with days before it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from artifacts.cli.running import duration_seconds
        from artifacts.errors import RequestError

        days, text = _DAYS.fullmatch(str(value)).groups()  # type: ignore[union-attr]  # it matches any text
        try:
            seconds = duration_seconds(f"{text}s" if text[-1:].isdecimal() else text, "duration") or 0.0
            seconds += 86_400.0 * int(days or 0)
        except RequestError:
            seconds = None
        # The system waits for no more than that at once.
        if seconds is None or not 0 < seconds <= threading.TIMEOUT_MAX:
            self.fail("expected seconds, or a duration such as 90s, 10m, 2h or 2d", param, ctx)
        return seconds


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command; they become one ``Session``."""

    @click.option("--json", "as_json", is_flag=True, help="Print receipts and a summary, one JSON object a line.")
    @click.option("-q", "--quiet", is_flag=True, help="Tell only warnings and errors.")
    @click.option("-v", "--verbose", count=True, help="Tell more; -vv tells every event.")
    @click.option("--log-file", type=click.Path(dir_okay=False), help="Append what is told here, with UTC times.")
    @click.option(
        "--deadline",
        type=_Duration(),
        metavar="DURATION",
        help="Stop when the whole of it takes longer: seconds, or such as 90s, 10m, 2h.",
    )
    @click.option("--traceback", "show_traceback", is_flag=True, help="Show where an error came from.")
    @functools.wraps(command)
    def wrapped(
        *,
        as_json: bool,
        quiet: bool,
        verbose: int,
        log_file: str | None,
        deadline: float | None,
        show_traceback: bool,
        **rest: Any,
    ) -> None:
        from artifacts.cli.session import Session

        session = Session(
            op=command.__name__.removesuffix("_").replace("_", " "),
            as_json=as_json,
            verbosity=-1 if quiet else verbose,
            show_traceback=show_traceback,
            log_file=log_file,
            deadline_seconds=deadline,
        )
        sys.exit(session.perform(lambda: command(session, **rest)))

    return wrapped


def endpoints(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that name what a request may reach, and how."""
    for option in (
        _network,
        click.option(
            "--audit", type=click.Path(dir_okay=False), metavar="FILE", help="Append each decision of the policy here."
        ),
        _s3,
        click.option("--config", type=click.Path(dir_okay=False), help="The configuration file (artifacts.toml)."),
        click.option(
            "--endpoint",
            "named",
            multiple=True,
            metavar="URL",
            help="An S3 server that requests may reach, such as http://minio.ml.svc:9000; repeatable, also "
            "$ARTIFACTS_ENDPOINTS. Naming http:// allows its plaintext.",
        ),
    ):
        command = option(command)
    return command


def _network(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every connection; `_options` makes them one value."""
    from creds.store import MOST_CONNECTIONS

    seconds = click.FloatRange(min=0, min_open=True)
    for option in (
        click.option(
            "--max-rate",
            type=_Bytes(),
            metavar="SIZE",
            help="Bytes per second of everything that is sent and fetched, such as 10MB.",
        ),
        click.option(
            "--connections",
            type=click.IntRange(1, MOST_CONNECTIONS),
            metavar="N",
            help="Connections for the parts of one object [4].",
        ),
        click.option("--read-timeout", type=seconds, metavar="SECONDS", help="For one silence of a server [60]."),
        click.option("--connect-timeout", type=seconds, metavar="SECONDS", help="For one connection [10]."),
        click.option("--retry-for", type=seconds, metavar="SECONDS", help="No new try begins later than this [120]."),
        click.option("--retries", type=click.IntRange(min=0), metavar="N", help="Tries after the first [5]."),
        click.option(
            "--token-file",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="A JWT of your own, used where the request has no credential; read again when it is renewed.",
        ),
        click.option("--role-arn", metavar="ARN", help="The AWS role to take."),
        click.option("--ssh-key", type=click.Path(dir_okay=False), metavar="FILE", help="A private key for sftp."),
        click.option(
            "--host-key", "host_keys", multiple=True, metavar="SHA256:...", help="A host key that sftp may meet."
        ),
        click.option("--known-hosts", type=click.Path(dir_okay=False), metavar="FILE", help="Host keys for sftp."),
        click.option("--client-key", type=click.Path(dir_okay=False), metavar="FILE", help="Its key, if elsewhere."),
        click.option("--client-cert", type=click.Path(dir_okay=False), metavar="FILE", help="A certificate to show."),
        click.option(
            "--ca",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="Certificates (PEM) to trust beside the system's.",
        ),
    ):
        command = option(command)
    return command


def _s3(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that an S3 server is told beside the object; `_s3_of` makes them one value."""
    from creds.store import SSE

    for option in (
        click.option(
            "--sse-c-key",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="A key of your own that S3 encrypts and decrypts with (SSE-C): 32 bytes, or those in base64.",
        ),
        click.option("--sse-kms-key-id", metavar="ID", help="The KMS key for --sse aws:kms."),
        click.option("--sse", type=click.Choice(SSE), help="How S3 encrypts what is written."),
        click.option("--requester-pays", is_flag=True, help="Pay for what S3 is asked instead of the bucket's owner."),
    ):
        command = option(command)
    return command


def identity(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that lend a request the caller's own AWS identity."""
    for option in (
        click.option("--profile", metavar="NAME", help="Use this AWS profile where the request has no credential."),
        click.option(
            "--ambient", is_flag=True, help="Use the machine's AWS chain where the request has no credential."
        ),
    ):
        command = option(command)
    return command


def operating(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what a request may reach, and as whom."""
    for option in (
        click.option("--file-root", "file_roots", multiple=True, metavar="DIR", help="Allow file: URLs below DIR."),
        click.option(
            "--lend-to",
            multiple=True,
            metavar="HOST[:PORT]",
            help="Where your own keys, token and role may serve a request: also *.domain[:port], or aws; repeatable.",
        ),
        identity,
        endpoints,
    ):
        command = option(command)
    return command


transfers = click.option(
    "--transfers", type=click.IntRange(min=1), metavar="N", help="Artifacts or objects on their way side by side."
)


def fetching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that fetch; `how` makes them one value."""
    for option in (
        click.option("--no-cache", is_flag=True, help="Use no cache, whatever the configuration file says."),
        click.option("--cache-max", type=_Bytes(), metavar="SIZE", help="Bytes of the cache, at most [50GiB]."),
        click.option(
            "--cache",
            type=click.Path(file_okay=False),
            metavar="DIR",
            help="Keep objects here, and fetch each once for all processes of this machine.",
        ),
        click.option(
            "--verify",
            is_flag=True,
            help="Hold what comes to the request's hash, else to the server's checksum or ETag.",
        ),
    ):
        command = option(command)
    return command


def how(
    session: Session,
    config: str | None,
    *,
    cache: str | None = None,
    cache_max: int | None = None,
    no_cache: bool = False,
    verify: bool = False,
) -> How:
    """How objects are moved."""
    from artifacts.cli import config as configuration
    from artifacts.objects import How

    if no_cache and (cache is not None or cache_max is not None):
        raise click.UsageError("--no-cache excludes --cache and --cache-max")
    file = settings(session, config)
    folder = None if no_cache else cache or file.cache
    if cache_max is not None and folder is None:
        raise click.UsageError("--cache-max goes with --cache")
    kept = None
    if folder is not None:
        from artifacts.cache import DEFAULT_MAX_BYTES, BlobCache

        most = file.cache_max_bytes if cache_max is None else cache_max
        kept = BlobCache(
            folder,
            max_bytes=DEFAULT_MAX_BYTES if most is None else most,
            keep_free_bytes=file.cache_keep_free_bytes or 0,
        )
    slots = None
    if file.host_transfers is not None:
        from artifacts.locks import HostSlots

        slots = HostSlots(configuration.slots(cache or file.cache, os.environ), file.host_transfers)
    return How(cache=kept, verify=verify, slots=slots)


def staging(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that work in a staging folder."""
    for option in (
        transfers,
        click.option("--keep-free", type=_Bytes(), metavar="SIZE", help="Free space to leave on the file system [0]."),
        click.option(
            "--max-bytes", type=_Bytes(), metavar="SIZE", help="Unpacked bytes of a request, at most [100GiB]."
        ),
        operating,
    ):
        command = option(command)
    return command


start_empty = click.option(
    "--start-empty",
    multiple=True,
    metavar="LABEL",
    help="Begin LABEL with an empty folder where the server answers 403 for an object that may be missing.",
)
fresh = click.option("--fresh", is_flag=True, help="Fetch everything again, and replace local changes.")
request = click.argument("request", metavar="REQUEST", type=click.Path(dir_okay=False, allow_dash=True))
into = click.option("--into", required=True, metavar="DIR", type=click.Path(file_okay=False), help="Where to stage.")


def one_url(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands for single objects, which have the caller's own authority."""
    for option in (
        endpoints,
        click.option("--endpoint-url", metavar="URL", help="The S3 server of URLs that name none, as in aws."),
        click.option("--profile", metavar="NAME", help="Use this profile of your AWS setup."),
        click.option("--anonymous", is_flag=True, help="Use no credential at all."),
        click.option(
            "--credentials",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="A request's `credentials` object as JSON; else the caller's own AWS setup is used.",
        ),
    ):
        command = option(command)
    return command


dry_run = click.option("--dry-run", is_flag=True, help="Of a prefix: tell what would be done, and do nothing.")


older_than = click.option(
    "--older-than",
    type=_Duration(),
    default="2d",
    show_default=True,
    metavar="DURATION",
    help="Only what was begun that long ago: seconds, or such as 90m, 12h, 2d.",
)


def promised(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that hold one object to what is known of it."""
    for option in (
        click.option("--if-match", metavar="ETAG", help="Only if the object has this ETag."),
        click.option("--sha256", metavar="HEX", help="Only if its bytes have this digest; else nothing appears."),
    ):
        command = option(command)
    return command


def diagnosing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for a URL, with the caller's own authority, and for a request, with what the operator allows."""
    for option in (
        click.option("--endpoint-url", metavar="URL", help="For a URL: the S3 server where it names none, as in aws."),
        click.option("--anonymous", is_flag=True, help="For a URL: use no credential at all."),
        click.option(
            "--credentials",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="For a URL: a request's `credentials` object as JSON; else the caller's own AWS setup is used.",
        ),
        operating,
    ):
        command = option(command)
    return command


def journals(environ: Mapping[str, str]) -> Path:
    """Where uploads that can go on are remembered: $XDG_STATE_HOME/artifacts/uploads (~/.local/state)."""
    from pathlib import Path

    state = environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local" / "state") / "artifacts" / "uploads"


def only_prefixes(*, dry_run: bool, transfers: int | None = None) -> None:
    """Refuse what only a prefix can have."""
    for name, given in (("--dry-run", dry_run), ("--transfers", transfers is not None)):
        if given:
            raise click.UsageError(f"{name} goes with a prefix: a URL that ends with /")


def load(session: Session, name: str) -> Request:
    """The request in a file, or from standard input where ``name`` is ``-``; its warnings are told."""
    from artifacts.errors import RequestError
    from artifacts.request import Request, loads

    try:
        if name == "-":
            with session.stdin() as stdin:
                request = loads(stdin.read())
        else:
            request = Request.load(name)
    except OSError as error:
        raise RequestError(f"cannot read {name}: {error.strerror}") from error
    except RequestError as error:
        if not error.problems[0].startswith("line "):  # of the file itself, or of a field that is named
            raise
        raise _in_file("standard input" if name == "-" else name, error) from error
    if not request.experiment.artifacts:
        session.warn("there are no artifacts in it: is it a request?")
    for warning in request.warnings:
        session.warn(warning)
    return request


def settings(session: Session, config: str | None) -> Settings:
    """What the configuration file says, read once; its warnings are told."""
    from artifacts.cli import config as configuration

    if session.settings is None:
        path = configuration.find(config, os.environ)
        session.settings = configuration.Settings() if path is None else configuration.load(path)
        for warning in session.settings.warnings:
            session.warn(warning)
        if session.settings.deadline_seconds is not None:
            session.stop_after(session.settings.deadline_seconds)
    return session.settings


def effective(session: Session, given: Mapping[str, Any]) -> list[Setting]:
    """Every value that holds, with who said it; ``given`` are the options of the command line."""
    from artifacts.cli import configuring

    said = {**given, "deadline": session.deadline_seconds}
    return configuring.effective(settings(session, given["config"]), said, os.environ)


def operator(
    session: Session,
    *,
    named: tuple[str, ...],
    config: str | None,
    file_roots: tuple[str, ...],
    lend_to: tuple[str, ...],
    audit: str | None,
    **options: Any,
) -> tuple[Policy, StoreOptions]:
    """What the operator allows a request."""
    from artifacts.cli import config as configuration
    from creds.policy import Policy

    file = settings(session, config)
    policy = Policy.for_requests(
        configuration.endpoints(named, os.environ, file.endpoints),
        file_roots=(*file_roots, *file.file_roots),
        issuers=file.issuers,
        lend_to=(*lend_to, *file.lend_to),
        on_decision=_audit(session, audit or file.audit),
    )
    return policy, _filled(file, options)


def limits(session: Session, config: str | None, max_bytes: int | None = None) -> Limits:
    """What a request may cost."""
    from artifacts.limits import Limits

    given = {} if max_bytes is None else {"max_bytes": max_bytes}
    return Limits(**{**settings(session, config).limits, **given})


def _audit(session: Session, name: str | None) -> AuditFile | None:
    if name is None:
        return None
    from artifacts.audit import AuditFile

    return AuditFile(name, op=session.op, run=session.run)


def _filled(file: Settings, options: Mapping[str, Any]) -> StoreOptions:
    """The options of the command line, with the file's where nothing was said."""
    made = _options(**file.filled(options))
    if not file.proxies:
        return made
    from dataclasses import replace
    from urllib.request import getproxies_environment

    return replace(made, proxies={**file.proxies, **getproxies_environment()})


def _options(
    *,
    ambient: bool,
    profile: str | None,
    ca: str | None,
    client_cert: str | None,
    client_key: str | None,
    known_hosts: str | None,
    host_keys: tuple[str, ...],
    ssh_key: str | None,
    token_file: str | None,
    role_arn: str | None,
    retries: int | None,
    retry_for: float | None,
    connect_timeout: float | None,
    read_timeout: float | None,
    max_rate: int | None,
    connections: int | None,
    duration_seconds: int | None = None,
    **s3: Any,
) -> StoreOptions:
    """How stores talk, with the library's defaults where the command line says nothing."""
    from creds.store import Rate, Retries, Ssh, StoreOptions, Sts, Tls

    if client_key is not None and client_cert is None:
        raise click.UsageError("--client-key goes with --client-cert")
    if max_rate == 0:
        raise click.UsageError("--max-rate 0 moves nothing")
    token = None
    if token_file is not None:
        from creds.tokens import TokenFile

        token = TokenFile(token_file)
    defaults, usual = StoreOptions(), Retries()
    return StoreOptions(
        ambient=ambient,
        profile=profile,
        rate=None if max_rate is None else Rate(max_rate),
        tls=Tls(ca_pem=_pem(ca), client_cert=client_cert, client_key=client_key),
        sts=Sts(
            role_arn=role_arn,
            token=token,
            duration_seconds=duration_seconds,
        ),
        s3=_s3_of(**s3),
        ssh=Ssh(known_hosts=known_hosts, fingerprints=host_keys, key=ssh_key),
        retries=Retries(
            attempts=usual.attempts if retries is None else 1 + retries,
            for_seconds=usual.for_seconds if retry_for is None else retry_for,
        ),
        connect_timeout_seconds=connect_timeout or defaults.connect_timeout_seconds,
        read_timeout_seconds=read_timeout or defaults.read_timeout_seconds,
        parallel_parts=connections or defaults.parallel_parts,
    )


def _s3_of(*, requester_pays: bool, sse: str | None, sse_kms_key_id: str | None, sse_c_key: str | None) -> S3:
    from creds.errors import CredentialError
    from creds.store import S3

    try:
        return S3(
            requester_pays=requester_pays,
            sse=sse,
            sse_kms_key_id=sse_kms_key_id,
            sse_c_key=None if sse_c_key is None else _customers_key(sse_c_key),
        )
    except CredentialError as error:
        raise click.UsageError(f"{error} ({error.hint})" if error.hint else str(error)) from None


def _customers_key(name: str) -> bytes:
    """The bytes of a key file, never shown."""
    import base64
    from pathlib import Path

    try:
        with Path(name).open("rb") as file:
            content = file.read(100)
    except OSError as error:
        raise click.UsageError(f"--sse-c-key {name}: {error.strerror}") from error
    if len(content) == 32:
        return content
    try:
        return base64.b64decode(content.strip(), validate=True)
    except ValueError:
        raise click.UsageError(f"--sse-c-key {name} holds neither 32 bytes nor base64") from None


def _pem(name: str | None) -> bytes | None:
    if name is None:
        return None
    from artifacts.cli.config import ConfigError, pem

    try:
        return pem(name)
    except ConfigError as error:
        raise click.UsageError(f"--ca {error}") from error


def staging_dir(
    session: Session,
    folder: str,
    *,
    keep_free: int | None,
    max_bytes: int | None,
    transfers: int | None,
    cache: str | None = None,
    cache_max: int | None = None,
    no_cache: bool = False,
    verify: bool = False,
    **rest: Any,
) -> StagingDir:
    """The staging folder, with what the operator allows."""
    from artifacts.staging import StagingDir

    policy, options = operator(session, **rest)
    file = settings(session, rest["config"])
    moving = how(session, rest["config"], cache=cache, cache_max=cache_max, no_cache=no_cache, verify=verify)
    return StagingDir(
        folder,
        policy=policy,
        options=options,
        limits=limits(session, rest["config"], max_bytes),
        keep_free_bytes=(file.keep_free_bytes or 0) if keep_free is None else keep_free,
        parallel=transfers,
        cache=moving.cache,
        slots=moving.slots,
        verify=moving.verify,
        on_event=session.on_event,
        cancel=session.cancel,
        run=session.run,
    )


def caller(
    session: Session,
    *,
    named: tuple[str, ...],
    config: str | None,
    audit: str | None,
    endpoint_url: str | None = None,
    chain: bool = False,
    **options: Any,
) -> tuple[Policy, StoreOptions, list[Endpoint]]:
    """The caller's own authority, and the endpoints of one host.

    Args:
        chain: the caller's own AWS chain serves where neither the location nor its endpoint's entry has a credential.
    """
    from artifacts.cli import config as configuration
    from creds.policy import Lent, Policy

    file = settings(session, config)
    endpoints = configuration.endpoints(named, os.environ, file.endpoints)
    policy = Policy.for_caller(
        endpoint_url=endpoint_url,
        endpoints=endpoints,
        issuers=file.issuers,
        lent=Lent(ambient=True) if chain else None,
        on_decision=_audit(session, audit or file.audit),
    )
    return policy, _filled(file, options), [endpoint for endpoint in endpoints if not endpoint.pattern]


def access(
    session: Session,
    *urls: str,
    credentials: str | None,
    anonymous: bool,
    profile: str | None,
    **rest: Any,
) -> Access:
    """As whom these URLs are reached; the caller's own AWS setup is never used unsaid."""
    from artifacts.objects import Access

    chosen = (credentials is not None, anonymous, profile is not None, rest["token_file"] is not None)
    if sum(chosen) > 1:
        raise click.UsageError("--credentials, --anonymous, --profile and --token-file exclude each other")
    # Of nobody's nothing is left to say: an endpoint's entry has no part in it either.
    given = _nobodys() if anonymous else read_credentials(credentials)
    own = given is None and rest["token_file"] is None
    policy, options, _ = caller(session, ambient=False, profile=profile, chain=own and profile is None, **rest)
    if own:
        for line in dict.fromkeys(_whose(session, policy, url, profile) for url in urls):
            if line is not None:
                session.say(f"credentials: {line}")
    return Access(credentials=given, options=options, policy=policy)


def _nobodys() -> Credentials:
    from creds.models import AWSCredential, Credentials

    return Credentials(aws=AWSCredential())


def _whose(session: Session, policy: Policy, url: str, profile: str | None) -> str | None:
    """Whose credential serves where the command line gives none; None where there is nothing to tell."""
    from creds.errors import LocationError
    from creds.location import Location

    try:
        location = Location.parse(url, prefix=True)
    except LocationError:
        return None  # told when it is resolved
    terms = policy.decide(location).terms if location is not None else None
    if profile is None and terms is not None and terms.lent is not None:
        return f"those of the endpoint {terms.host} in {settings(session, None).path}"
    if url.lower().startswith("s3"):
        return f"your own AWS setup ({f'profile {profile}' if profile else 'default chain'})"
    return None


def read_credentials(name: str | None) -> Any:
    """A request's ``credentials`` object from a file, read as strictly as in a request."""
    if name is None:
        return None
    from pathlib import Path

    from artifacts.errors import RequestError
    from artifacts.request import loads_credentials

    try:
        return loads_credentials(Path(name).read_bytes())
    except OSError as error:
        raise RequestError(f"cannot read {name}: {error.strerror}") from error
    except RequestError as error:
        raise _in_file(name, error) from error


def _in_file(name: str, error: RequestError) -> RequestError:
    """An error about a document, with the file that it is in."""
    from artifacts.errors import RequestError

    return RequestError(f"{name}: {error}", hint=error.hint)

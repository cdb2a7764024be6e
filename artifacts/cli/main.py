"""The commands, their arguments and options. Each loads what it needs when it runs."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from artifacts.cli.session import Session
    from artifacts.objects import Access
    from artifacts.request import Request
    from artifacts.staging import StagingDir
    from creds.policy import Endpoint, Issuer, Policy
    from creds.store import StoreOptions


def main() -> NoReturn:
    """The entry point of the ``artifacts`` command."""
    code = _command_line()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Everything is closed. Tearing down the interpreter would cost tens of milliseconds more, and a thread of an
    # engine that is just handing over its last result aborts the process if it meets an interpreter that is gone.
    os._exit(code)


def _command_line() -> int:
    try:
        return cli(prog_name="artifacts", standalone_mode=False) or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        from artifacts.cli.display import usage_line

        sys.stderr.write(usage_line(error) + "\n")
        return error.exit_code
    except click.Abort:
        return 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="artifact-creds")
def cli() -> None:
    """Stage the artifacts of a StudioML experiment request, run it, and return its results.

    Exit codes: 0 done; 2 usage or request invalid; 3 refused by policy; 4 not found; 5 credential; 6 archive or
    digest; 7 changed or in conflict; 8 limit; 9 this machine; 75 transient, run again; docs/exit-codes.md has the
    rest.
    """


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command; they become one ``Session``."""

    @click.option("--json", "as_json", is_flag=True, help="Print receipts and a summary, one JSON object a line.")
    @click.option("-q", "--quiet", is_flag=True, help="Tell only warnings and errors.")
    @click.option("-v", "--verbose", count=True, help="Tell more; -vv tells every event.")
    @click.option("--log-file", type=click.Path(dir_okay=False), help="Append what is told here, with UTC times.")
    @click.option("--traceback", "show_traceback", is_flag=True, help="Show where an error came from.")
    @functools.wraps(command)
    def wrapped(
        *, as_json: bool, quiet: bool, verbose: int, log_file: str | None, show_traceback: bool, **rest: Any
    ) -> None:
        from artifacts.cli.session import Session

        session = Session(
            op=command.__name__.removesuffix("_"),
            as_json=as_json,
            verbosity=-1 if quiet else verbose,
            show_traceback=show_traceback,
            log_file=log_file,
        )
        sys.exit(session.perform(lambda: command(session, **rest)))

    return wrapped


def _endpoints(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that name what a request may reach, and how."""
    for option in (
        _network,
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
    """Options of every connection; :func:`_options` makes them one value."""
    seconds = click.FloatRange(min=0, min_open=True)
    for option in (
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


def _identity(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that lend a request the caller's own AWS identity."""
    for option in (
        click.option("--profile", metavar="NAME", help="Use this AWS profile where the request has no credential."),
        click.option(
            "--ambient", is_flag=True, help="Use the machine's AWS chain where the request has no credential."
        ),
    ):
        command = option(command)
    return command


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


def _operating(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what a request may reach, and as whom."""
    for option in (
        click.option("--file-root", "file_roots", multiple=True, metavar="DIR", help="Allow file: URLs below DIR."),
        _identity,
        _endpoints,
    ):
        command = option(command)
    return command


def _staging(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that work in a staging folder."""
    for option in (
        click.option(
            "--keep-free", type=_Bytes(), default="0", metavar="SIZE", help="Free space to leave on the file system."
        ),
        click.option(
            "--max-bytes", type=_Bytes(), metavar="SIZE", help="Unpacked bytes of a request, at most [100GiB]."
        ),
        _operating,
    ):
        command = option(command)
    return command


_start_empty = click.option(
    "--start-empty",
    multiple=True,
    metavar="LABEL",
    help="Begin LABEL with an empty folder where the server answers 403 for an object that may be missing.",
)
_fresh = click.option("--fresh", is_flag=True, help="Fetch everything again, and replace local changes.")
_request = click.argument("request", metavar="REQUEST", type=click.Path(dir_okay=False, allow_dash=True))
_into = click.option("--into", required=True, metavar="DIR", type=click.Path(file_okay=False), help="Where to stage.")


@cli.command()
@_request
@_into
@_fresh
@_start_empty
@_staging
@_common
def stage(session: Session, request: str, into: str, *, fresh: bool, start_empty: tuple[str, ...], **rest: Any) -> None:
    """Fetch every artifact to DIR/<label>/.

    REQUEST is a file, or - for standard input.
    """
    loaded = _load(session, request)
    receipts = _staging_dir(session, into, **rest).stage(loaded, fresh=fresh, start_empty=start_empty)
    session.results(receipts)


@cli.command()
@_request
@click.option("--from", "folder", required=True, metavar="DIR", type=click.Path(file_okay=False), help="Where it is.")
@_staging
@_common
def upload(session: Session, request: str, folder: str, **rest: Any) -> None:
    """Upload the mutable artifacts that changed since they were staged."""
    loaded = _load(session, request)
    session.results(_staging_dir(session, folder, **rest).upload(loaded))


@cli.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True})
@_request
@_into
@click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@_fresh
@_start_empty
@_staging
@_common
def run(
    session: Session,
    request: str,
    into: str,
    command: tuple[str, ...],
    *,
    fresh: bool,
    start_empty: tuple[str, ...],
    **rest: Any,
) -> int:
    """Stage, run CMD in DIR/workspace, upload what changed.

    CMD's environment is PATH, HOME, LANG, TMPDIR and the request's config.env, nothing else. Its exit code is the
    exit code, once everything is stored. With --json what it prints goes to standard error.
    """
    from artifacts.cli.running import run_request

    loaded = _load(session, request)
    with _staging_dir(session, into, **rest) as staging:
        return run_request(
            session, staging, loaded, list(command), fresh=fresh, start_empty=start_empty, environ=os.environ
        )


@cli.command()
@_request
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Where the completed request goes, or -.",
)
@_identity
@_endpoints
@_common
def push(session: Session, request: str, output: str, **rest: Any) -> None:
    """Upload each artifact's `local` path, and complete REQUEST.

    A folder is packed. The completed request names what was uploaded and holds the credentials: only you may read it.
    Relative paths are read from REQUEST's own folder. An empty key becomes blobstore/<sha256 of the plain tar>.tar.
    """
    from artifacts.cli.session import print_json
    from artifacts.errors import DiskError
    from artifacts.pushing import push as push_request
    from artifacts.request import dumps
    from artifacts.state import write_private

    if output == "-":
        if session.as_json:
            raise click.UsageError("-o - does not go with --json")
        session.reserve_stdout()
    elif not Path(output).absolute().parent.is_dir():
        # Told before anything is sent.
        raise click.UsageError(f"-o {output}: there is no folder {Path(output).absolute().parent}")
    loaded = _load(session, request)
    policy, options, endpoints = _caller(session, **rest)
    completed, receipts = push_request(
        loaded,
        base=Path.cwd() if request == "-" else Path(request).absolute().parent,
        policy=policy,
        options=options,
        endpoint=endpoints[0] if len(endpoints) == 1 else None,
        on_event=session.on_event,
        cancel=session.cancel,
    )
    if output == "-":
        print_json(dumps(completed).decode())
        return
    try:
        write_private(Path(output), dumps(completed) + b"\n")
    except OSError as error:
        raise DiskError.of("write", output, error) from error
    session.results(receipts)
    session.say(f"wrote {output}")


def _one_url(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands for single objects, which have the caller's own authority."""
    for option in (
        _endpoints,
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


@cli.command()
@click.argument("url")
@click.argument("path", type=click.Path(allow_dash=True))
@click.option("--unpack", is_flag=True, help="Unpack an archive into PATH, a new folder.")
@_one_url
@_common
def get(session: Session, url: str, path: str, *, unpack: bool, **rest: Any) -> None:
    """Fetch one object to PATH.

    PATH is a file, a folder that takes it under its own name, or - for standard output.
    """
    from artifacts import objects

    if path == "-" and (unpack or session.as_json):
        raise click.UsageError("standard output takes neither --unpack nor --json")
    access = _access(session, url, **rest)
    if path == "-":
        session.reserve_stdout()
        objects.get_stream(url, sys.stdout.buffer, access=access, on_event=session.on_event, cancel=session.cancel)
        return
    receipt = objects.get(url, path, unpack=unpack, access=access, on_event=session.on_event, cancel=session.cancel)
    session.results([receipt])


@cli.command()
@click.argument("path", type=click.Path(exists=True, allow_dash=True))
@click.argument("url")
@click.option("--if-absent", is_flag=True, help="Only where there is no object yet.")
@_one_url
@_common
def put(session: Session, path: str, url: str, *, if_absent: bool, **rest: Any) -> None:
    """Send one file, or a folder as an archive, to URL.

    A folder is packed by URL's extension: .tar, .tar.gz, .tar.zst and so on. PATH may be - for standard input.
    """
    from artifacts import objects

    access = _access(session, url, **rest)
    with session.stdin() if path == "-" else contextlib.nullcontext(path) as source:
        receipt = objects.put(
            source, url, if_absent=if_absent, access=access, on_event=session.on_event, cancel=session.cancel
        )
    session.results([receipt])


@cli.command()
@click.argument("url")
@_one_url
@_common
def stat(session: Session, url: str, **rest: Any) -> None:
    """Show what the store says of one object."""
    from artifacts import objects
    from artifacts.cli.showing import show_meta

    show_meta(session, objects.stat(url, access=_access(session, url, **rest), cancel=session.cancel))


@cli.command()
@click.argument("url")
@_one_url
@_common
def rm(session: Session, url: str, **rest: Any) -> None:
    """Delete one object.

    One that is absent already is no error.
    """
    from artifacts import objects

    objects.remove(url, access=_access(session, url, **rest), cancel=session.cancel)


@cli.command()
@click.argument("source", metavar="URL")
@click.argument("target", metavar="URL")
@click.option("--if-absent", is_flag=True, help="Only where there is no object yet.")
@_one_url
@_common
def cp(session: Session, source: str, target: str, *, if_absent: bool, **rest: Any) -> None:
    """Copy one object to another URL.

    It passes through this machine, and not onto its disk.
    """
    from artifacts import objects

    receipt = objects.copy(
        source,
        target,
        if_absent=if_absent,
        access=_access(session, target, **rest),
        on_event=session.on_event,
        cancel=session.cancel,
    )
    session.results([receipt])


@cli.command()
@_request
@_operating
@_common
def check(session: Session, request: str, **rest: Any) -> int:
    """Resolve and probe each artifact, and move nothing."""
    from artifacts.cli.checking import check_request

    loaded = _load(session, request)
    policy, options = _operator(session, **rest)
    return check_request(session, loaded, policy, options)


@cli.command()
@click.option("--keep", metavar="DIR", type=click.Path(file_okay=False), help="Work in DIR, and leave it there.")
@click.option("--endpoint-url", metavar="URL", help="Use this S3 server instead of the embedded one.")
@click.option("--credentials", type=click.Path(dir_okay=False), metavar="FILE", help="The keys for --endpoint-url.")
@_common
def demo(session: Session, keep: str | None, endpoint_url: str | None, credentials: str | None) -> None:
    """Show the whole of it on an embedded S3 server.

    Push, stage, run, upload, fetch back, compare.
    """
    from artifacts.cli.demo import demonstrate

    if (endpoint_url is None) != (credentials is None):
        raise click.UsageError("--endpoint-url and --credentials go together")
    demonstrate(session, keep=keep, endpoint_url=endpoint_url, credentials=_read_credentials(credentials))


# -- from options to objects -------------------------------------------------------------------------------------


def _load(session: Session, name: str) -> Request:
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
    for warning in request.warnings:
        session.warn(warning)
    return request


def _named(session: Session, named: tuple[str, ...], config: str | None) -> tuple[list[Endpoint], tuple[Issuer, ...]]:
    from artifacts.cli import config as configuration

    path = configuration.find(config, os.environ)
    settings = configuration.Settings() if path is None else configuration.load(path)
    for warning in settings.warnings:
        session.warn(warning)
    return configuration.endpoints(named, os.environ, settings.endpoints), settings.issuers


def _operator(
    session: Session,
    *,
    named: tuple[str, ...],
    config: str | None,
    file_roots: tuple[str, ...],
    **options: Any,
) -> tuple[Policy, StoreOptions]:
    """What the operator allows a request."""
    from creds.policy import Policy

    endpoints, issuers = _named(session, named, config)
    return Policy.for_requests(endpoints, file_roots=file_roots, issuers=issuers), _options(**options)


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
) -> StoreOptions:
    """How stores talk, with the library's defaults where the command line says nothing."""
    from creds.store import Retries, Ssh, StoreOptions, Sts, Tls
    from creds.tokens import TokenFile

    if client_key is not None and client_cert is None:
        raise click.UsageError("--client-key goes with --client-cert")
    defaults, usual = StoreOptions(), Retries()
    return StoreOptions(
        ambient=ambient,
        profile=profile,
        tls=Tls(ca_pem=_pem(ca), client_cert=client_cert, client_key=client_key),
        sts=Sts(role_arn=role_arn, token=None if token_file is None else TokenFile(token_file)),
        ssh=Ssh(known_hosts=known_hosts, fingerprints=host_keys, key=ssh_key),
        retries=Retries(
            attempts=usual.attempts if retries is None else 1 + retries,
            for_seconds=usual.for_seconds if retry_for is None else retry_for,
        ),
        connect_timeout_seconds=connect_timeout or defaults.connect_timeout_seconds,
        read_timeout_seconds=read_timeout or defaults.read_timeout_seconds,
    )


def _pem(name: str | None) -> bytes | None:
    if name is None:
        return None
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--ca {name}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in content or not content.isascii():
        raise click.UsageError(f"--ca {name} holds no certificate in PEM form")
    return content


def _staging_dir(session: Session, folder: str, *, keep_free: int, max_bytes: int | None, **rest: Any) -> StagingDir:
    from artifacts.limits import Limits
    from artifacts.staging import StagingDir

    policy, options = _operator(session, **rest)
    return StagingDir(
        folder,
        policy=policy,
        options=options,
        limits=Limits() if max_bytes is None else Limits(max_bytes=max_bytes),
        keep_free_bytes=keep_free,
        on_event=session.on_event,
        cancel=session.cancel,
        run=session.run,
    )


def _caller(
    session: Session,
    *,
    named: tuple[str, ...],
    config: str | None,
    endpoint_url: str | None = None,
    **options: Any,
) -> tuple[Policy, StoreOptions, list[Endpoint]]:
    """The caller's own authority."""
    from creds.policy import Policy

    endpoints, issuers = _named(session, named, config)
    policy = Policy.for_caller(endpoint_url=endpoint_url, endpoints=endpoints, issuers=issuers)
    return policy, _options(**options), endpoints


def _access(
    session: Session,
    url: str,
    *,
    credentials: str | None,
    anonymous: bool,
    profile: str | None,
    **rest: Any,
) -> Access:
    """As whom one URL is reached; the caller's own AWS setup is never used unsaid."""
    from artifacts.objects import Access

    chosen = (credentials is not None, anonymous, profile is not None, rest["token_file"] is not None)
    if sum(chosen) > 1:
        raise click.UsageError("--credentials, --anonymous, --profile and --token-file exclude each other")
    given = _read_credentials(credentials)
    own = given is None and not anonymous and rest["token_file"] is None
    if own and url.lower().startswith("s3"):
        session.say(f"credentials: your own AWS setup ({f'profile {profile}' if profile else 'default chain'})")
    policy, options, _ = _caller(session, ambient=own and profile is None, profile=profile, **rest)
    return Access(credentials=given, options=options, policy=policy)


def _read_credentials(name: str | None) -> Any:
    """A request's ``credentials`` object from a file, read as strictly as in a request."""
    if name is None:
        return None
    from artifacts.errors import RequestError
    from artifacts.request import loads_credentials

    try:
        return loads_credentials(Path(name).read_bytes())
    except OSError as error:
        raise RequestError(f"cannot read {name}: {error.strerror}") from error

"""The commands. Each loads what it needs when it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from artifacts.cli import options

if TYPE_CHECKING:
    from artifacts.cli.session import Session


def start() -> NoReturn:
    """Do what the command line says, and end the process."""
    _open_closed_streams()
    code = _command_line()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Everything is closed. Tearing down the interpreter would cost tens of milliseconds more, and a thread of an
    # engine that is just handing over its last result aborts the process if it meets an interpreter that is gone.
    os._exit(code)


def _open_closed_streams() -> None:
    """Who started us may have closed them: the next file or connection would become standard output."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY), "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")  # a write fails, and is told
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


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
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as error:  # of a help text: commands tell their own
        from artifacts.cli import exits

        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: cannot use standard output: {error.strerror}\n")
        return exits.NODE


@click.group(cls=options.Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="artifact-creds")
def cli() -> None:
    """Stage the artifacts of a StudioML experiment request, run it, and return its results.

    Exit codes: 0 done; 2 usage or request invalid; 3 refused by policy; 4 not found; 5 credential; 6 archive or
    digest; 7 changed or in conflict; 8 limit; 9 this machine; 75 transient, run again; docs/exit-codes.md has the
    rest.
    """


@cli.command(
    options=(
        options.request,
        options.into,
        options.fresh,
        options.start_empty,
        options.fetching,
        options.staging,
        options.common,
    )
)
def stage(session: Session, request: str, into: str, *, fresh: bool, start_empty: tuple[str, ...], **rest: Any) -> None:
    """Fetch every artifact to DIR/<label>/.

    REQUEST is a file, or - for standard input.
    """
    loaded = options.load(session, request)
    receipts = options.staging_dir(session, into, **rest).stage(loaded, fresh=fresh, start_empty=start_empty)
    session.results(receipts)


@cli.command(
    options=(
        options.request,
        click.option(
            "--from", "folder", required=True, metavar="DIR", type=click.Path(file_okay=False), help="Where it is."
        ),
        options.staging,
        options.common,
    )
)
def upload(session: Session, request: str, folder: str, **rest: Any) -> None:
    """Upload the mutable artifacts that changed since they were staged."""
    loaded = options.load(session, request)
    session.results(options.staging_dir(session, folder, **rest).upload(loaded))


@cli.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True},
    options=(
        options.request,
        options.into,
        click.argument("command", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED),
        options.fresh,
        options.start_empty,
        options.fetching,
        options.staging,
        options.common,
    ),
)
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

    loaded = options.load(session, request)
    with options.staging_dir(session, into, **rest) as staging:
        return run_request(
            session, staging, loaded, list(command), fresh=fresh, start_empty=start_empty, environ=os.environ
        )


@cli.command(
    options=(
        click.argument("words", metavar="REQUEST | LABEL=PATH...", nargs=-1),
        click.option(
            "-o",
            "--output",
            required=True,
            metavar="FILE",
            type=click.Path(dir_okay=False, allow_dash=True),
            help="Where the completed request goes, or -.",
        ),
        click.option(
            "--to", "url", metavar="URL", help="Make a request: send each PATH below URL, s3://host/bucket/prefix."
        ),
        click.option(
            "--mutable", multiple=True, metavar="LABEL,...", help="With --to: labels that are uploaded when changed."
        ),
        click.option(
            "--unpack/--no-unpack", default=None, help="With --to: folders and archives are unpacked if not said."
        ),
        click.option(
            "--compress", type=click.Choice(["none", "gz", "zst"]), help="With --to: how folders are packed [none]."
        ),
        click.option(
            "--embed",
            metavar="none|static|sts:DURATION",
            help="With --to: the credentials that go into the request [none].",
        ),
        click.option(
            "--credentials",
            type=click.Path(dir_okay=False),
            metavar="FILE",
            help="With --to: a `credentials` object as JSON; else your own AWS setup.",
        ),
        options.identity,
        options.endpoints,
        options.common,
    )
)
def push(
    session: Session,
    words: tuple[str, ...],
    output: str,
    *,
    url: str | None,
    mutable: tuple[str, ...],
    unpack: bool | None,
    compress: str | None,
    embed: str | None,
    credentials: str | None,
    **rest: Any,
) -> None:
    """Upload paths, and write the request that names them.

    Either complete REQUEST: each artifact's `local` path, read from REQUEST's own folder, is uploaded, and an empty key
    becomes blobstore/<sha256 of the plain tar>.tar. Or make a request with --to URL from LABEL=PATH...; LABEL= is a
    mutable artifact that has nothing yet. A folder is packed. Only you may read what is written: it may hold
    credentials.
    """
    from artifacts.cli.pushing import push_paths, push_request

    if url is None:
        if mutable or unpack is not None or compress or embed or credentials:
            raise click.UsageError("--mutable, --unpack, --compress, --embed and --credentials go with --to")
        push_request(session, words, output, **rest)
        return
    push_paths(
        session,
        url,
        words,
        output,
        mutable=mutable,
        unpack=unpack,
        compress=compress or "none",
        embed=embed or "none",
        credentials=credentials,
        anonymous=False,
        **rest,
    )


@cli.command(
    options=(
        click.argument("url"),
        click.argument("path", type=click.Path(allow_dash=True)),
        click.option("--unpack", is_flag=True, help="Unpack an archive into PATH, a new folder."),
        options.promised,
        options.fetching,
        options.transfers,
        options.dry_run,
        options.one_url,
        options.common,
    )
)
def get(
    session: Session,
    url: str,
    path: str,
    *,
    unpack: bool,
    sha256: str | None,
    if_match: str | None,
    cache: str | None,
    cache_max: int | None,
    no_cache: bool,
    verify: bool,
    transfers: int | None,
    dry_run: bool,
    **rest: Any,
) -> None:
    """Fetch one object to PATH, or all below a prefix.

    PATH is a file, a folder that takes the object under its own name, or - for standard output.

    A URL that ends with / is a prefix: every object below it is fetched into the folder PATH, but for those that are
    there already (docs/objects.md has the rule). Nothing in the folder is deleted. Keys that would leave it are
    refused, and the others are fetched.
    """
    from artifacts import objects

    how = options.how(session, rest["config"], cache=cache, cache_max=cache_max, no_cache=no_cache, verify=verify)
    if url.endswith("/"):
        from artifacts.cli.showing import many
        from artifacts.prefixes import get_prefix

        if path == "-" or unpack or sha256 is not None or if_match is not None:
            raise click.UsageError("a prefix goes to a folder, without --unpack, --sha256 and --if-match")
        access = options.access(session, url, **rest)
        many(
            session,
            lambda told: get_prefix(
                *(url, path),
                dry_run=dry_run,
                parallel=transfers,
                access=access,
                how=how,
                on_event=told,
                cancel=session.cancel,
            ),
        )
        return
    options.only_prefixes(dry_run=dry_run, transfers=transfers)
    if path == "-" and (unpack or session.as_json):
        raise click.UsageError("standard output takes neither --unpack nor --json")
    access = options.access(session, url, **rest)
    asked: dict[str, Any] = {"sha256": sha256, "if_match": if_match, "access": access, "how": how}
    asked |= {"on_event": session.on_event, "cancel": session.cancel}
    if path == "-":
        session.reserve_stdout()
        objects.get_stream(url, sys.stdout.buffer, **asked)
        return
    receipt = objects.get(url, path, unpack=unpack, **asked)
    session.results([receipt])


@cli.command(
    options=(
        click.argument("path", type=click.Path(exists=True, allow_dash=True)),
        click.argument("url"),
        click.option("--if-absent", is_flag=True, help="Only where there is no object yet."),
        click.option(
            "--resume", is_flag=True, help="Go on where an earlier try of the same file stopped; leave that possible."
        ),
        options.promised,
        options.transfers,
        options.dry_run,
        options.one_url,
        options.common,
    )
)
def put(
    session: Session,
    path: str,
    url: str,
    *,
    if_absent: bool,
    resume: bool,
    sha256: str | None,
    if_match: str | None,
    transfers: int | None,
    dry_run: bool,
    **rest: Any,
) -> None:
    """Send one file, a folder as an archive, or every file of a folder.

    A folder is packed by URL's extension: .tar, .tar.gz, .tar.zst and so on. PATH may be - for standard input.

    A URL that ends with / is a prefix: every file below PATH becomes an object of its own, but for those that are there
    already (docs/objects.md has the rule). Nothing below the prefix is deleted; links are not followed.
    """
    from artifacts import objects

    how = options.how(session, rest["config"])
    if if_absent and if_match is not None:
        raise click.UsageError("--if-absent and --if-match exclude each other")
    if resume and (url.endswith("/") or path == "-" or os.path.isdir(path)):  # noqa: PTH112 - a Path is made where one is needed
        raise click.UsageError("--resume goes with one file that is sent as it is")
    if url.endswith("/"):
        from artifacts.cli.showing import many
        from artifacts.prefixes import put_prefix

        if path == "-" or if_absent or sha256 is not None or if_match is not None:
            raise click.UsageError("a prefix takes a folder or file, without --if-absent, --sha256 and --if-match")
        access = options.access(session, url, **rest)
        many(
            session,
            lambda told: put_prefix(
                *(path, url),
                dry_run=dry_run,
                parallel=transfers,
                access=access,
                how=how,
                on_event=told,
                cancel=session.cancel,
            ),
        )
        return
    options.only_prefixes(dry_run=dry_run, transfers=transfers)
    access = options.access(session, url, **rest)
    with session.stdin() if path == "-" else contextlib.nullcontext(path) as source:
        receipt = objects.put(
            source,
            url,
            if_absent=if_absent,
            if_match=if_match,
            sha256=sha256,
            resume=options.journals(os.environ) if resume else None,
            access=access,
            how=how,
            on_event=session.on_event,
            cancel=session.cancel,
        )
    session.results([receipt])


@cli.command(
    options=(
        click.argument("urls", metavar="URL...", nargs=-1, required=True),
        click.option("-r", "--recursive", is_flag=True, help="List what lies deeper, too."),
        click.option("-l", "--long", is_flag=True, help="Show the ETag, and whole URLs."),
        options.one_url,
        options.common,
    )
)
def ls(session: Session, urls: tuple[str, ...], *, recursive: bool, long: bool, **rest: Any) -> int:
    """List the objects of buckets, prefixes and folders.

    One line an object: size in bytes, time of the last change in UTC, key. What lies deeper is shown as its folder,
    ending with /, unless --recursive. A prefix (a URL that ends with /, or a bucket) may be empty; any other URL must
    be an object or a folder with something in it, else it is not found (exit 4).
    """
    from artifacts import objects
    from artifacts.cli.showing import each, show_listing

    access = options.access(session, *urls, **rest)

    def show(url: str) -> None:
        found = objects.ls(url, recursive=recursive, access=access, cancel=session.cancel)
        show_listing(session, url, found, long=long)

    return each(session, urls, show)


@cli.command(
    options=(
        click.argument("urls", metavar="URL...", nargs=-1, required=True),
        options.one_url,
        options.common,
    )
)
def stat(session: Session, urls: tuple[str, ...], **rest: Any) -> int:
    """Show what the store says of objects."""
    from artifacts import objects
    from artifacts.cli.showing import each, show_meta

    access = options.access(session, *urls, **rest)
    return each(
        session, urls, lambda url: show_meta(session, url, objects.stat(url, access=access, cancel=session.cancel))
    )


@cli.command(
    options=(
        click.argument("urls", metavar="URL...", nargs=-1, required=True),
        click.option("-r", "--recursive", is_flag=True, help="Delete all below a prefix, a URL that ends with /."),
        click.option("--if-match", metavar="ETAG", help="Only the object that has this ETag."),
        options.dry_run,
        options.one_url,
        options.common,
    )
)
def rm(
    session: Session, urls: tuple[str, ...], *, recursive: bool, if_match: str | None, dry_run: bool, **rest: Any
) -> int:
    """Delete objects.

    One that is absent already is no error. A URL that ends with / is a prefix, and needs --recursive.
    """
    from artifacts import objects
    from artifacts.cli.showing import each, many
    from artifacts.prefixes import remove_prefix

    if not recursive and any(url.endswith("/") for url in urls):
        raise click.UsageError("a URL that ends with / is a prefix: to delete all below it add --recursive")
    if recursive and not all(url.endswith("/") for url in urls):
        raise click.UsageError("--recursive deletes all below a prefix: end each URL with /")
    if if_match is not None and (recursive or len(urls) > 1):
        raise click.UsageError("--if-match goes with one object")
    access = options.access(session, *urls, **rest)

    def remove(url: str) -> None:
        if recursive:
            many(
                session,
                lambda told: remove_prefix(url, dry_run=dry_run, access=access, on_event=told, cancel=session.cancel),
            )
        else:
            objects.remove(
                url,
                if_match=if_match,
                dry_run=dry_run,
                access=access,
                on_event=session.on_event,
                cancel=session.cancel,
            )

    return each(session, urls, remove)


@cli.command(
    options=(
        click.argument("source", metavar="SOURCE-URL"),
        click.argument("target", metavar="TARGET-URL"),
        click.option("--if-absent", is_flag=True, help="Only where there is no object yet."),
        options.dry_run,
        options.one_url,
        options.common,
    )
)
def cp(session: Session, source: str, target: str, *, if_absent: bool, dry_run: bool, **rest: Any) -> None:
    """Copy one object to another URL, or all below a prefix to another.

    It passes through this machine, and not onto its disk. URLs that end with / are prefixes: every object below the
    first is copied, but for those that are there already (docs/objects.md has the rule).
    """
    from artifacts import objects

    if source.endswith("/") or target.endswith("/"):
        from artifacts.cli.showing import many
        from artifacts.prefixes import copy_prefix

        if not (source.endswith("/") and target.endswith("/")) or if_absent:
            raise click.UsageError("a prefix is copied to a prefix, both end with /, without --if-absent")
        access = options.access(session, source, target, **rest)
        many(
            session,
            lambda told: copy_prefix(
                source, target, dry_run=dry_run, access=access, on_event=told, cancel=session.cancel
            ),
        )
        return
    options.only_prefixes(dry_run=dry_run)
    receipt = objects.copy(
        source,
        target,
        if_absent=if_absent,
        access=options.access(session, source, target, **rest),
        on_event=session.on_event,
        cancel=session.cancel,
    )
    session.results([receipt])


@cli.command(
    "gc",
    options=(
        click.argument("urls", metavar="URL...", nargs=-1, required=True),
        options.older_than,
        click.option("--dry-run", is_flag=True, help="Tell what would be aborted, and abort nothing."),
        options.one_url,
        options.common,
    ),
)
def gc_(session: Session, urls: tuple[str, ...], *, older_than: float, dry_run: bool, **rest: Any) -> int:
    """Abort uploads to S3 that were never finished.

    They cost storage, and no listing shows them. Objects are never touched. A URL that ends with / is a prefix, whose
    uploads are meant; a bucket's are all of it; any other URL names one object. One line an upload: when it was begun
    (UTC), its age, its key, what became of it. An upload that is still under way fails when it is aborted.
    """
    from artifacts import leftovers
    from artifacts.cli.showing import each, show_leftovers

    access = options.access(session, *urls, **rest)

    def sweep(url: str) -> None:
        found = leftovers.gc(url, older_than_seconds=older_than, dry_run=dry_run, access=access, cancel=session.cancel)
        show_leftovers(session, url, found)

    return each(session, urls, sweep)


@cli.command(
    options=(
        options.request,
        options.operating,
        options.common,
    )
)
def check(session: Session, request: str, **rest: Any) -> int:
    """Resolve and probe each artifact, and move nothing."""
    from artifacts.cli.checking import check_request

    loaded = options.load(session, request)
    policy, store_options = options.operator(session, **rest)
    limits = options.limits(session, rest["config"])
    return check_request(
        session, loaded, policy, store_options, limits=limits, settings=options.effective(session, rest)
    )


@cli.group()
def config() -> None:
    """Write, check and show the operator's configuration file."""


@config.command(
    "init",
    options=(
        click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="Write it here instead."),
        options.common,
    ),
)
def config_init(session: Session, output: str | None) -> None:
    """Write a file with every key, commented out.

    It goes to $XDG_CONFIG_HOME/artifacts/artifacts.toml (~/.config), and replaces none.
    """
    from artifacts.cli import configuring

    configuring.init(session, output, os.environ)


@config.command(
    "check",
    options=(
        click.argument("file", required=False, type=click.Path(dir_okay=False)),
        options.common,
    ),
)
def config_check(session: Session, file: str | None) -> None:
    """Read FILE as every command would, and tell what is wrong.

    Without FILE it is the file that the commands find.
    """
    from artifacts.cli import configuring

    configuring.check(session, file, os.environ)


@config.command(
    "show",
    options=(
        click.option("--origin", is_flag=True, help="Say for each value who said it, and on which line."),
        options.fetching,
        options.staging,
        options.common,
    ),
)
def config_show(session: Session, *, origin: bool, **rest: Any) -> None:
    """Show every value that holds for stage, run, upload and check.

    Paths are shown, never what is in them.
    """
    from artifacts.cli import configuring

    configuring.show(session, options.effective(session, rest), origin=origin)


@cli.command(
    options=(
        click.argument("subject", metavar="URL|REQUEST"),
        click.option("--write", is_flag=True, help="Try to write too: a small object beside it, deleted again."),
        options.diagnosing,
        options.common,
    )
)
def doctor(session: Session, subject: str, *, write: bool, **rest: Any) -> int:
    """Say step by step why objects can, or cannot, be used.

    A line a step: ok, warn, fail or skip; the step; what was seen; and after -> the setting to change. Nothing is
    changed but by --write. A URL may end at a bucket or folder. The exit code is that of `check`.
    """
    from artifacts.cli.doctoring import examine_request, examine_url

    if "://" in subject:
        return examine_url(session, subject, write=write, **rest)
    return examine_request(session, subject, write=write, **rest)


@cli.command(
    options=(
        click.option(
            "--keep", metavar="DIR", type=click.Path(file_okay=False), help="Work in DIR, and leave it there."
        ),
        click.option("--endpoint-url", metavar="URL", help="Use this S3 server instead of the embedded one."),
        click.option(
            "--credentials", type=click.Path(dir_okay=False), metavar="FILE", help="The keys for --endpoint-url."
        ),
        options.common,
    )
)
def demo(session: Session, keep: str | None, endpoint_url: str | None, credentials: str | None) -> None:
    """Show the whole of it on an embedded S3 server.

    Push, stage, run, upload, fetch back, compare.
    """
    from artifacts.cli.demo import demonstrate

    if (endpoint_url is None) != (credentials is None):
        raise click.UsageError("--endpoint-url and --credentials go together")
    demonstrate(session, keep=keep, endpoint_url=endpoint_url, credentials=options.read_credentials(credentials))

"""``artifacts push``: complete a request that names paths of this machine, or make one from paths alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from artifacts.cli import options
from artifacts.cli.running import duration_seconds
from artifacts.cli.session import Session, print_json
from artifacts.errors import DiskError, RequestError
from artifacts.pushing import Pushed, push, push_to
from artifacts.request import Request, dumps
from artifacts.state import write_private
from creds.keys import Identity

FORMS = "give either REQUEST, or --to URL and LABEL=PATH..."


def push_request(session: Session, words: tuple[str, ...], output: str, **rest: Any) -> None:
    """The form ``push REQUEST``."""
    if len(words) != 1:
        raise click.UsageError(f"{'nothing' if not words else 'more than one REQUEST'} to push: {FORMS}")
    _check_output(session, output)
    (name,) = words
    loaded = options.load(session, name)
    policy, store_options, endpoints = options.caller(session, **rest)
    completed, receipts = push(
        loaded,
        base=Path.cwd() if name == "-" else Path(name).absolute().parent,
        policy=policy,
        options=store_options,
        endpoint=endpoints[0] if len(endpoints) == 1 else None,
        on_event=session.on_event,
        cancel=session.cancel,
    )
    _write(session, completed, output)
    session.results(receipts)


def push_paths(
    session: Session,
    url: str,
    words: tuple[str, ...],
    output: str,
    *,
    mutable: tuple[str, ...],
    unpack: bool | None,
    compress: str,
    embed: str,
    ambient: bool,
    **rest: Any,
) -> None:
    """The form ``push --to URL LABEL=PATH...``."""
    if ambient and rest["profile"] is not None:
        raise click.UsageError("--ambient and --profile exclude each other")
    paths = _paths(words)
    kind, seconds = _embed(embed)
    _check_output(session, output)
    access = options.access(session, url, duration_seconds=seconds, **rest)
    pushed = push_to(
        url,
        paths,
        mutable={label for names in mutable for label in names.split(",") if label},
        unpack=unpack,
        compress=compress,
        embed=kind,
        access=access,
        experiment=session.run,
        on_event=session.on_event,
        cancel=session.cancel,
    )
    _write(session, pushed.request, output)
    session.results(pushed.receipts)
    _tell(session, pushed, url, output)


def _paths(words: tuple[str, ...]) -> dict[str, str | None]:
    paths: dict[str, str | None] = {}
    for word in words:
        label, equals, path = word.partition("=")
        if not equals:
            raise click.UsageError(f"{word!r} is no LABEL=PATH: {FORMS}")
        if label in paths:
            raise click.UsageError(f"the label {label!r} is given twice")
        paths[label] = path or None
    if not paths:
        raise click.UsageError(f"nothing to push: {FORMS}")
    return paths


def _embed(word: str) -> tuple[str, int | None]:
    """What is embedded, and for how many seconds an STS shall make it good."""
    kind, colon, duration = word.partition(":")
    if (kind == "sts") != bool(colon) or kind not in ("none", "static", "sts"):
        raise click.UsageError(f"--embed {word}: write none, static or sts:DURATION, such as sts:1h")
    if not colon:
        return kind, None
    try:
        seconds = duration_seconds(duration, "--embed")
    except RequestError as error:
        raise click.UsageError(f'--embed {word}: write a duration such as "sts:1h30m"') from error
    if seconds is None or not 900 <= seconds <= 43_200:
        raise click.UsageError(f"--embed {word}: an STS gives keys for 15m to 12h")
    return kind, round(seconds)


def _check_output(session: Session, output: str) -> None:
    """Told before anything is sent."""
    if output == "-":
        if session.as_json:
            raise click.UsageError("-o - does not go with --json")
        session.reserve_stdout()
    elif not Path(output).absolute().parent.is_dir():
        raise click.UsageError(f"-o {output}: there is no folder {Path(output).absolute().parent}")


def _write(session: Session, request: Request, output: str) -> None:
    document = dumps(request)
    if output == "-":
        print_json(document.decode())
        return
    try:
        write_private(Path(output), document + b"\n")
    except OSError as error:
        raise DiskError.of("write", output, error) from error
    session.say(f"wrote {output}")


def _tell(session: Session, pushed: Pushed, url: str, output: str) -> None:
    """Whose credentials went in, until when; and what the runner needs."""
    identity = pushed.embedded
    if identity is None:
        session.say(
            "credentials in the request: none; the runner needs its own for "
            f"{url}: --ambient, --profile or --token-file of 'artifacts stage', with --lend-to"
        )
        return
    what = {"aws": "AWS key", "jwt": "JWT", "plain": "user"}.get(identity.kind, identity.kind)
    whose = "" if identity.source in ("request", "token") else f" ({identity.source})"
    session.say(f"credentials in the request: {what} {identity.id}{whose}, {_ends(identity, pushed.request)}")
    if identity.expires_at is None and not _has_token(pushed.request):
        session.warn(
            f"these do not end: whoever reads {output} has them for good; --embed sts:DURATION makes keys that end"
        )


def _has_token(request: Request) -> bool:
    artifacts = request.experiment.artifacts or {}
    return any(
        found.credentials.aws is not None and found.credentials.aws.session_token for found in artifacts.values()
    )


def _ends(identity: Identity, request: Request) -> str:
    if identity.expires_at is None:
        return "temporary, nobody tells when they end" if _has_token(request) else "which does not end"
    left = identity.expires_at - datetime.now(UTC)
    minutes = max(0, left // timedelta(minutes=1))
    return f"ends {identity.expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} (in {minutes // 60} h {minutes % 60} min)"

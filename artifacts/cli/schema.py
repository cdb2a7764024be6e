"""What may stand in ``artifacts.toml``: every table and key, its type, its meaning and an example.

Loaded only when a file is read, or one is to be written: pydantic is slow to load. ``docs/configuration.md`` has the
same tables, which a test compares, and the file of ``artifacts config init`` is made of these.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from artifacts.errors import RequestError
from artifacts.request import parse_size
from creds.endpoint import check_pattern
from creds.errors import LocationError
from creds.secret import Secret
from creds.store import MOST_CONNECTIONS

VERSION: Literal[1] = 1


class _Table(BaseModel):
    """One table: exact types, and no value in an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)


def _size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except RequestError as error:
        raise ValueError("expected a size such as 500MB or 10GiB, or a number of bytes") from error


def _duration(value: Any) -> Any:
    from artifacts.cli.running import duration_seconds

    if not isinstance(value, str):
        return value
    try:
        return duration_seconds(f"{value}s" if value[-1:].isdecimal() else value, "duration")
    except RequestError as error:
        raise ValueError("expected seconds, or a duration such as 90s, 10m or 2h") from error


def _lendable(pattern: str) -> str:
    try:
        check_pattern(pattern)
    except LocationError as error:
        raise ValueError(str(error)) from error
    return pattern


def _fingerprint(text: str) -> str:
    if not text.startswith("SHA256:"):
        raise ValueError("expected SHA256:..., as ssh-keygen -l prints it")
    return text


def _filled(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


Text = Annotated[str, AfterValidator(_filled)]
Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Rate = Annotated[int, BeforeValidator(_size), Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Connections = Annotated[int, Field(ge=1, le=MOST_CONNECTIONS)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=threading.TIMEOUT_MAX)]
Hidden = Annotated[Secret, BeforeValidator(lambda value: Secret(value) if isinstance(value, str) else value)]
Lendable = Annotated[str, AfterValidator(_lendable)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]


def _key(meaning: str, example: Any) -> Any:
    return Field(default=None, description=meaning, examples=[example])


class EndpointTable(_Table):
    """A server: naming it allows it. The name is ``host[:port]``, ``*.domain[:port]``, or ``aws`` for AWS itself."""

    url: Text | None = _key(
        "scheme, host and port; https://NAME where it is left out. Naming http:// allows plaintext",
        "http://minio.ml.svc:9000",
    )
    region: Text | None = _key("signs requests where nothing else names a region", "us-east-1")
    addressing: Literal["auto", "path", "virtual"] | None = _key("how the bucket is addressed", "path")
    checksums: Literal["auto", "always", "never"] | None = _key("whether a CRC32 is sent with what is written", "never")
    buckets: list[Text] | None = _key(
        "patterns that a request's bucket must fit, with *, ? and [...]; all where it is left out",
        ["data-*", "results"],
    )
    ca: Text | None = _key(
        "a file of certificates (PEM) to trust there, beside those trusted everywhere", "corp-ca.pem"
    )
    client_cert: Text | None = _key("a certificate (PEM) to show there", "client.pem")
    client_key: Text | None = _key("its key, where it is in another file", "client.key")
    known_hosts: Text | None = _key("a file of host keys, for sftp", "known_hosts")
    host_keys: list[Fingerprint] | None = _key("host keys that sftp may meet there", ["SHA256:..."])
    ssh_key: Text | None = _key("a private key to log in to sftp with", "id_ed25519")
    jwt_file: Text | None = _key(
        "a file that holds a JWT, read again at each renewal; for locations without a credential",
        "/var/run/secrets/tokens/artifacts",
    )
    jwt_variable: Text | None = _key("an environment variable that holds one", "CI_JOB_JWT")
    profile: Text | None = _key("a profile of this machine's AWS setup, for the same", "ml")
    ambient: bool | None = _key("this machine's whole AWS chain, for the same", example=True)
    credentials: Text | None = _key("a file with a request's credentials object (JSON), for the same", "minio.json")
    anonymous: bool | None = _key("nobody's, whatever is lent elsewhere", example=True)
    role_arn: Text | None = _key("the role to take with that credential", "arn:aws:iam::123456789012:role/artifacts")
    external_id: Hidden | None = _key("what the role's owner asks for", "...")
    session_name: Text | None = _key("how the server's logs name the session", "runner-7")
    session_seconds: Annotated[int, Field(ge=900, le=43_200)] | None = _key("how long the role's keys live", 3600)
    sts_endpoint: Text | None = _key("the security token service, where it is not the usual one", "https://sts.corp")


class IssuerTable(_Table):
    """Tokens of one issuer (the claim ``iss``): where the operator's own may serve, and which role they take."""

    endpoints: list[Lendable] | None = _key("host[:port], *.domain[:port] or aws", ["minio.ml.svc:9000", "aws"])
    sts_endpoint: Text | None = _key("turns these tokens into keys", "https://sts.corp")
    role_arn: Text | None = _key("the role to take", "arn:aws:iam::123456789012:role/artifacts")


class LimitsTable(_Table):
    """What a request may cost. Passing a limit is an error, never a truncation."""

    max_bytes: Size | None = _key("unpacked bytes of a request", "100GiB")
    max_members: Count | None = _key("archive members of a request", 10_000_000)
    max_depth: Count | None = _key("folders below one artifact's own", 256)
    max_name_bytes: Count | None = _key("of a member's whole path", 4096)
    max_ratio: Count | None = _key("unpacked bytes for each byte of the object", 1100)
    ratio_floor_bytes: Size | None = _key("below this much output the ratio is not looked at", "64MiB")
    max_artifacts: Count | None = _key("artifacts of a request", 10_000)
    keep_free: Size | None = _key("free space to leave on the staging folder's file system", "10GiB")


class PolicyTable(_Table):
    """What a request may reach beside the endpoints."""

    file_roots: list[Text] | None = _key("folders below which file: URLs are allowed", ["/data"])
    lend_to: list[Lendable] | None = _key(
        "where --ambient, --profile, --token-file and --role-arn may serve: host[:port], *.domain[:port] or aws",
        ["minio.ml.svc:9000"],
    )
    audit: Text | None = _key("a file that each decision is appended to", "/var/log/artifacts-audit.jsonl")


class NetworkTable(_Table):
    """How every connection is made. Names and units are those of the options."""

    connect_timeout: Seconds | None = _key("seconds for one connection", 10)
    read_timeout: Seconds | None = _key("seconds for one silence of a server", 60)
    retries: Annotated[int, Field(ge=0)] | None = _key("tries after the first", 5)
    retry_for: Seconds | None = _key("seconds after which no new try begins", 120)
    connections: Connections | None = _key("connections for the parts of one object", 4)
    max_rate: Rate | None = _key("bytes per second of everything that is sent and fetched", "100MB")
    deadline: Duration | None = _key("stop a command that takes longer: seconds, or such as 90s, 10m, 2h", "6h")
    ca: Text | None = _key("a file of certificates (PEM) to trust beside the system's, everywhere", "corp-ca.pem")
    client_cert: Text | None = _key("a certificate (PEM) to show to every server that asks", "client.pem")
    client_key: Text | None = _key("its key, where it is in another file", "client.key")
    http_proxy: Hidden | None = _key("the forward proxy for http, where HTTP_PROXY is not set", "http://proxy:3128")
    https_proxy: Hidden | None = _key("the forward proxy for https, where HTTPS_PROXY is not set", "http://proxy:3128")
    no_proxy: Text | None = _key(
        "hosts without a proxy, with commas between, where NO_PROXY is not set", ".corp,10.0.0.0/8"
    )


class CacheTable(_Table):
    """Objects of immutable artifacts that are kept on this machine, and fetched once for all requests."""

    dir: Text | None = _key("its folder; without one nothing is kept", "/var/cache/artifacts")
    max_bytes: Size | None = _key("all objects together; those used longest ago go first", "50GiB")
    keep_free: Size | None = _key("free space to leave on its file system", "10GiB")


class HostTable(_Table):
    """What all processes of this user on this machine share."""

    transfers: Count | None = _key("artifacts on their way at once, over all processes; the others wait", 8)


class Document(_Table):
    """The whole file."""

    version: Literal[1]
    endpoint: dict[str, EndpointTable] = {}
    issuer: dict[str, IssuerTable] = {}
    limits: LimitsTable = LimitsTable()
    policy: PolicyTable = PolicyTable()
    network: NetworkTable = NetworkTable()
    cache: CacheTable = CacheTable()
    host: HostTable = HostTable()


TABLES: Mapping[str, type[_Table]] = {
    "endpoint": EndpointTable,
    "issuer": IssuerTable,
    "network": NetworkTable,
    "policy": PolicyTable,
    "limits": LimitsTable,
    "cache": CacheTable,
    "host": HostTable,
}
NAMED = {"endpoint": "minio.ml.svc:9000", "issuer": "https://gitlab.corp"}
"""The tables that are one for each name, and an example of a name."""


def read(content: Mapping[str, Any]) -> tuple[Document, list[str], list[str]]:
    """A file's content as the schema has it.

    Returns:
        The document, without what is wrong in it; the problems and the warnings, each with the path of its key.
    """
    version = content.get("version")
    if version != VERSION or isinstance(version, bool):
        # The keys of another version mean what they mean there.
        return Document(version=VERSION), [f"version: expected {VERSION}, got {_shown(version)}"], []
    warnings = list(_unknown(content))
    try:
        return Document.model_validate(content), [], warnings
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    # What is sound is looked at further, so that one reading tells every problem.
    wrong = {part["loc"] for part in found}
    sound: dict[str, Any] = {"version": VERSION}
    for table in TABLES:
        for name, entry in _entries(table, content.get(table)):
            path = (table, name) if name else (table,)
            kept = {
                key: value
                for key, value in entry.items()
                if not any(at[: len(path) + 1] == (*path, key) for at in wrong)
            }
            sound.setdefault(table, {}).update({name: kept} if name else kept)
    return Document.model_validate(sound), [f"{dotted(part['loc'])}: {_said(part['msg'])}" for part in found], warnings


def dotted(path: tuple[str | int, ...]) -> str:
    """A key's path as TOML writes it; the place in a list in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if part.replace("_", "").replace("-", "").isalnum() and part.isascii() else f'"{part}"'
            text += f".{shown}" if text else shown
    return text


def _said(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return message if message.startswith(("expected", "is empty")) or ":" in message else f"expected {message}"


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def _unknown(document: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each key that nobody reads, with the one that may have been meant."""
    yield from _not_read(document, (), Document.model_fields)
    for table, model in TABLES.items():
        entries = document.get(table)
        for name, entry in _entries(table, entries):
            yield from _not_read(entry, (table, name) if name else (table,), model.model_fields)


def _entries(table: str, entries: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(entries, dict):
        return
    if table not in NAMED:
        yield "", entries
        return
    yield from ((name, entry) for name, entry in entries.items() if isinstance(entry, dict))


def _not_read(table: Mapping[str, Any], path: tuple[str, ...], known: Mapping[str, FieldInfo]) -> Iterator[str]:
    for name in table:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            yield f"{dotted((*path, name))} is not read{meant}"


def template() -> str:
    """A file with every key, each commented out but the version."""
    lines = [
        "# The operator's settings for the artifacts command; docs/configuration.md explains them.",
        "# The command line and the environment come before this file. Relative paths count from its folder.",
        "",
        f"version = {VERSION}",
    ]
    for table, model in TABLES.items():
        about = (model.__doc__ or "").replace("``", "").splitlines()[0]
        header = f'[{table}."{NAMED[table]}"]' if table in NAMED else f"[{table}]"
        lines += ["", f"# {about}", f"#{header}"]
        for name, field in model.model_fields.items():
            lines.append(f"#{name} = {_toml((field.examples or [''])[0])}    # {field.description}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)

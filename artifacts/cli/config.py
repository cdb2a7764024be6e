"""What the operator says, from the command line, the environment and one TOML file, in that order.

The file is the first that exists of ``--config``, ``$ARTIFACTS_CONFIG``, ``$XDG_CONFIG_HOME/artifacts/artifacts.toml``
(``~/.config`` when unset) and ``/etc/artifacts/artifacts.toml``::

    version = 1

    [endpoint."minio.ml.svc:9000"]
    url = "http://minio.ml.svc:9000"    # naming http:// is what allows plaintext
    region = "us-east-1"

    [issuer."https://gitlab.corp"]      # whose tokens the operator lends (--token-file), and where they may go
    endpoints = ["minio.ml.svc:9000"]
    sts_endpoint = "http://minio.ml.svc:9000"
    role_arn = "arn:aws:iam::role/ArtifactRW"
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifacts.errors import RequestError
from creds.policy import Endpoint, Issuer

VERSION = 1
ENDPOINT_KEYS = ("url", "region", "addressing", "checksums")
ISSUER_KEYS = ("endpoints", "sts_endpoint", "role_arn")


class ConfigError(RequestError):
    """Raised when the configuration file cannot be used."""

    code = "config"


def find(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file to read, or None; one that was named must exist.

    Raises:
        ConfigError: ``--config`` or ``$ARTIFACTS_CONFIG`` names no file.
    """
    for source, name in (("--config", explicit), ("$ARTIFACTS_CONFIG", environ.get("ARTIFACTS_CONFIG"))):
        if name:
            if not Path(name).is_file():
                raise ConfigError(f"{source}: {name} is no file")
            return Path(name)
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/nonexistent"), ".config")  # noqa: PTH118 - joined before it is a path
    candidates = (Path(home) / "artifacts" / "artifacts.toml", Path("/etc/artifacts/artifacts.toml"))
    return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a configuration file says.

    Attributes:
        warnings: one for each key that is not read.
    """

    endpoints: tuple[Endpoint, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    warnings: tuple[str, ...] = ()


def load(path: Path) -> Settings:
    """Read a configuration file.

    Raises:
        ConfigError: the file is no TOML, has another version, or an entry is wrong.
        LocationError: an endpoint is none.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if document.get("version") != VERSION:
        raise ConfigError(f"{path}: version: expected {VERSION}, got {document.get('version')!r}")
    warnings = _unknown(path, "", document, ("version", "endpoint", "issuer"))
    endpoints, issuers = [], []
    for host, entry in _entries(path, document, "endpoint", ENDPOINT_KEYS, warnings):
        endpoint = Endpoint(**{"url": f"https://{host}", **entry})
        if endpoint.host != Endpoint(url=f"{endpoint.scheme}://{host}").host:
            raise ConfigError(f'{path}: endpoint."{host}".url names another host: {endpoint.host}')
        endpoints.append(endpoint)
    for iss, entry in _entries(path, document, "issuer", ISSUER_KEYS, warnings):
        serves = entry.pop("endpoints", [])
        if not isinstance(serves, list):
            raise ConfigError(f'{path}: issuer."{iss}".endpoints: expected a list of "host:port"')
        issuers.append(Issuer(iss=iss, endpoints=tuple(serves), **entry))
    return Settings(endpoints=tuple(endpoints), issuers=tuple(issuers), warnings=tuple(warnings))


def _entries(
    path: Path, document: Mapping[str, Any], table: str, known: tuple[str, ...], warnings: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of one table of tables, with the keys that are known."""
    entries = document.get(table, {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{path}: {table}: expected a table for each {table}")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not all(_texts(value) for value in entry.values()):
            raise ConfigError(f"{path}: {table}.{name!r}: expected a table of strings")
        warnings += _unknown(path, f'{table}."{name}".', entry, known)
        yield name, {key: value for key, value in entry.items() if key in known}


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def endpoints(named: Iterable[str], environ: Mapping[str, str], file: Iterable[Endpoint]) -> list[Endpoint]:
    """Every endpoint the operator names; what the command line says of one wins over the environment and the file."""
    from_environ = environ.get("ARTIFACTS_ENDPOINTS", "").replace(",", " ").split()
    found = [*(Endpoint.parse(url) for url in (*named, *from_environ)), *file]
    return list({endpoint.host: endpoint for endpoint in reversed(found)}.values())


def _unknown(path: Path, prefix: str, table: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    warnings = []
    for name in table:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            warnings.append(f"{path}: {prefix}{name} is not read{meant}")
    return warnings

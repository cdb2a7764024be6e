"""What the operator says, from the command line, the environment and one TOML file, in that order.

The file is the first that exists of ``--config``, ``$ARTIFACTS_CONFIG``, ``$XDG_CONFIG_HOME/artifacts/artifacts.toml``
(``~/.config`` when unset) and ``/etc/artifacts/artifacts.toml``::

    version = 1

    [endpoint."minio.ml.svc:9000"]
    url = "http://minio.ml.svc:9000"    # naming http:// is what allows plaintext
    region = "us-east-1"
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from artifacts.errors import RequestError
from creds.policy import Endpoint

VERSION = 1
ENDPOINT_KEYS = ("url", "region", "addressing", "checksums")


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


def load(path: Path) -> tuple[list[Endpoint], list[str]]:
    """The endpoints a configuration file names, and a warning for each key it holds that is not read.

    Raises:
        ConfigError: the file is no TOML, has another version, or an entry is wrong.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if document.get("version") != VERSION:
        raise ConfigError(f"{path}: version: expected {VERSION}, got {document.get('version')!r}")
    warnings = _unknown(path, "", document, ("version", "endpoint"))
    endpoints = []
    table = document.get("endpoint", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: endpoint: expected a table for each endpoint")
    for host, entry in table.items():
        if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
            raise ConfigError(f"{path}: endpoint.{host!r}: expected a table of strings")
        warnings += _unknown(path, f'endpoint."{host}".', entry, ENDPOINT_KEYS)
        known = {name: value for name, value in entry.items() if name in ENDPOINT_KEYS}
        endpoint = Endpoint(**{"url": f"https://{host}", **known})
        if endpoint.host != Endpoint(url=f"{endpoint.url.partition(':')[0]}://{host}").host:
            raise ConfigError(f'{path}: endpoint."{host}".url names another host: {endpoint.host}')
        endpoints.append(endpoint)
    return endpoints, warnings


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

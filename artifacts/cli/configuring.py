"""``artifacts config``: write a configuration file, check one, and show what holds and who said it."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from artifacts.cache import DEFAULT_MAX_BYTES
from artifacts.cli import config as configuration
from artifacts.cli import schema
from artifacts.cli.config import ConfigError, Settings
from artifacts.cli.display import print_rows
from artifacts.cli.session import Session, print_json
from artifacts.errors import DiskError
from artifacts.limits import Limits
from creds.endpoint import AWS
from creds.policy import Endpoint
from creds.secret import Secret
from creds.store import DEFAULT_WINDOW_BYTES, Retries, StoreOptions

_HIDDEN = "***"
_ENVIRONMENT = {"http_proxy": "http", "https_proxy": "https", "no_proxy": "no"}


class Setting(NamedTuple):
    """One value that holds.

    Attributes:
        name: its path, as the file would write it.
        value: None where nothing is said and there is no default.
        origin: ``command line``, ``environment``, ``file`` or ``default``.
        line: of the file, where that is known.
    """

    name: str
    value: Any
    origin: str
    line: int | None = None


def init(session: Session, output: str | None, environ: Mapping[str, str]) -> None:
    """Write a file with every key, commented out, readable by its owner only.

    Args:
        output: None is the user's own file.

    Raises:
        ConfigError: there is a file already.
        DiskError: it cannot be written.
    """
    path = configuration.users(environ) if output is None else Path(output)
    try:
        if output is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(schema.template())
    except FileExistsError as error:
        raise ConfigError(f"{path} exists, and is not overwritten", hint="give another name with -o") from error
    except OSError as error:
        raise DiskError.of("write", str(path), error) from error
    if session.as_json:
        _print({"type": "config", "path": str(path), "written": True})
    else:
        session.say(f"wrote {path}")


def check(session: Session, name: str | None, environ: Mapping[str, str]) -> None:
    """Read a file as every command would, and tell what is wrong and what is not read.

    Raises:
        ConfigError: there is none, or it cannot be used; each problem has the path of its key.
    """
    path = configuration.find(None, environ) if name is None else Path(name)
    if path is None:
        raise ConfigError("there is no configuration file", hint="artifacts config init writes one")
    facts: dict[str, Any] = {"type": "config", "path": str(path), "valid": True, "problems": [], "warnings": []}
    try:
        settings = configuration.load(path)
    except ConfigError as error:
        if session.as_json:
            _print({**facts, "valid": False, "problems": list(error.problems), "warnings": list(error.warnings)})
        else:
            _warn(session, error.warnings)
        raise
    warnings = [*settings.warnings, *_missing_tokens(settings)]
    if session.as_json:
        _print({**facts, "warnings": warnings})
        return
    _warn(session, warnings)
    print_rows(("file", "state"), [(str(path), "valid")])


def _warn(session: Session, warnings: Iterable[str]) -> None:
    for warning in warnings:
        session.warn(warning)


def _missing_tokens(settings: Settings) -> Iterator[str]:
    """A token may come later, so that it is not there is no error."""
    from creds.tokens import TokenFile

    for endpoint in settings.endpoints:
        token = endpoint.lent.token if endpoint.lent is not None else None
        if isinstance(token, TokenFile) and not Path(token.path).is_file():
            where = schema.dotted(("endpoint", endpoint.host, "jwt_file"))
            yield f"{settings.path}: {where}: {token.path} is no file yet"


def show(session: Session, found: list[Setting], *, origin: bool) -> None:
    """Print every value that holds; with ``origin`` who said it."""
    if session.as_json:
        for setting in found:
            where = {"origin": setting.origin, "line": setting.line} if origin else {}
            _print({"type": "setting", "name": setting.name, "value": setting.value, **where})
        return
    names = ("setting", "value", "origin") if origin else ("setting", "value")
    rows = [(setting.name, shown(setting.value), _origin(setting)) for setting in found]
    print_rows(names, [row if origin else row[:2] for row in rows])


def shown(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _origin(setting: Setting) -> str:
    return setting.origin if setting.line is None else f"{setting.origin}, line {setting.line}"


def _print(facts: Mapping[str, Any]) -> None:
    print_json(json.dumps({"v": 1, **facts}, separators=(",", ":"), ensure_ascii=False))


def effective(settings: Settings, options: Mapping[str, Any], environ: Mapping[str, str]) -> list[Setting]:
    """Every value that holds, in the file's order, and who said it.

    Args:
        options: of the command line, by their names; None or empty where nothing was said.
        environ: for ``$ARTIFACTS_CONFIG``, ``$ARTIFACTS_ENDPOINTS`` and the proxies.
    """
    return list(_Effective(settings, options, environ))


class _Effective:
    """The values of one run, each of the first who says it: command line, environment, file, default."""

    def __init__(self, settings: Settings, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._options = options
        self._environ = environ
        document = settings.document
        self._file: dict[str, Any] = {} if document is None else document.model_dump(exclude_unset=True)
        self._lines = _lines(settings.path)

    def __iter__(self) -> Iterator[Setting]:
        yield self._path()
        yield from self._network()
        yield from self._identity()
        yield from self._limits()
        yield from self._cache()
        yield self._host()
        yield from self._policy()
        yield from self._endpoints()
        for iss, table in self._file.get("issuer", {}).items():
            for key, value in table.items():
                yield self._from_file(("issuer", iss, key), value)

    def _path(self) -> Setting:
        path = self._settings.path
        origin = "default"
        if self._options.get("config"):
            origin = "command line"
        elif self._environ.get("ARTIFACTS_CONFIG"):
            origin = "environment"
        return Setting("config", None if path is None else str(path), origin)

    def _one(self, table: str, key: str, default: Any, resolved: Any = None) -> Setting:
        """A value that is said once: the first who says it wins. ``resolved``: what the file's became."""
        given = self._options.get(key)
        if given is not None:
            return Setting(f"{table}.{key}", given, "command line")
        if key in self._file.get(table, {}):
            value = self._file[table][key]
            return self._from_file((table, key), value if resolved is None else resolved)
        return Setting(f"{table}.{key}", default, "default")

    def _from_file(self, path: tuple[str, ...], value: Any) -> Setting:
        return Setting(
            schema.dotted(path), _HIDDEN if isinstance(value, Secret) else value, "file", self._lines.get(path)
        )

    def _network(self) -> Iterator[Setting]:
        options, retries = StoreOptions(), Retries()
        defaults: dict[str, Any] = {
            "connect_timeout": options.connect_timeout_seconds,
            "read_timeout": options.read_timeout_seconds,
            "retries": retries.attempts - 1,
            "retry_for": retries.for_seconds,
            "connections": options.parallel_parts,
        }
        filled = self._settings.filled(self._options)
        for key in schema.NetworkTable.model_fields:
            if key in _ENVIRONMENT:
                yield self._proxy(key)
            elif filled.get(key) is None and key.startswith("client_"):
                yield Setting(f"network.{key}", None, "default")
            else:
                yield self._one("network", key, defaults.get(key), self._settings.network.get(key))
        yield Setting("network.window_bytes", DEFAULT_WINDOW_BYTES, "default")

    def _proxy(self, key: str) -> Setting:
        value = next((self._environ[name] for name in (key, key.upper()) if self._environ.get(name)), None)
        if value is not None:
            return Setting(f"network.{key}", _masked(value), "environment")
        found = self._settings.proxies.get(_ENVIRONMENT[key])
        if found is not None:
            return self._from_file(("network", key), _masked(found))
        return Setting(f"network.{key}", None, "default")

    def _identity(self) -> Iterator[Setting]:
        """What the command line alone says."""
        for key in ("ambient", "profile", "token_file", "role_arn", "known_hosts", "host_keys", "ssh_key"):
            value = self._options.get(key)
            if value:
                yield Setting(f"options.{key}", list(value) if isinstance(value, tuple) else value, "command line")

    def _limits(self) -> Iterator[Setting]:
        defaults = {field.name: field.default for field in fields(Limits)}
        for key in schema.LimitsTable.model_fields:
            yield self._one("limits", key, defaults.get(key, 0))

    def _host(self) -> Setting:
        found = self._settings.host_transfers
        name = ("host", "transfers")
        return Setting(schema.dotted(name), None, "default") if found is None else self._from_file(name, found)

    def _cache(self) -> Iterator[Setting]:
        defaults = {"dir": None, "max_bytes": DEFAULT_MAX_BYTES, "keep_free": 0}
        given = {"dir": self._options.get("cache"), "max_bytes": self._options.get("cache_max")}
        if self._options.get("no_cache"):
            yield Setting("cache.dir", None, "command line")
            return
        for key, default in defaults.items():
            if given.get(key) is not None:
                yield Setting(f"cache.{key}", given[key], "command line")
            elif key in self._file.get("cache", {}):
                value = self._settings.cache if key == "dir" else self._file["cache"][key]
                yield self._from_file(("cache", key), value)
            else:
                yield Setting(f"cache.{key}", default, "default")

    def _policy(self) -> Iterator[Setting]:
        for key, from_file in (("file_roots", self._settings.file_roots), ("lend_to", self._settings.lend_to)):
            given = list(self._options.get(key) or ())
            if given:
                # They add up; the first who said something is named.
                yield Setting(f"policy.{key}", [*given, *from_file], "command line")
            else:
                yield (
                    self._one("policy", key, [], list(from_file))
                    if from_file
                    else Setting(f"policy.{key}", [], "default")
                )
        yield self._one("policy", "audit", None, self._settings.audit)

    def _endpoints(self) -> Iterator[Setting]:
        tables = self._file.get("endpoint", {})
        from_file = {endpoint.host: endpoint for endpoint in self._settings.endpoints}
        names = dict(zip(from_file, tables, strict=True))
        given = [(url, "command line") for url in self._options.get("named") or ()]
        given += [
            (url, "environment") for url in self._environ.get("ARTIFACTS_ENDPOINTS", "").replace(",", " ").split()
        ]
        origins = {Endpoint.parse(url).host: origin for url, origin in reversed(given)}
        named = [url for url, _ in given]
        for endpoint in configuration.endpoints(named, {}, self._settings.endpoints):
            if endpoint is not from_file.get(endpoint.host):
                yield Setting(schema.dotted(("endpoint", endpoint.host, "url")), endpoint.url, origins[endpoint.host])
                continue
            name = names[endpoint.host]
            if "url" not in tables[name] and name != AWS:
                yield Setting(schema.dotted(("endpoint", name, "url")), endpoint.url, "default")
            for key, value in tables[name].items():
                yield self._from_file(("endpoint", name, key), value)


def _masked(url: str) -> str:
    """A proxy's URL without its user and password."""
    return re.sub(r"(^|//)[^/@]*@", rf"\1{_HIDDEN}@", url)


def _lines(path: Path | None) -> dict[tuple[str, ...], int]:
    """The line of each key that stands on one of its own; tomllib tells none."""
    if path is None:
        return {}
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        text = line.strip()
        try:
            read = tomllib.loads(text if text.startswith("[") else re.sub(r"=.*", "= 0", text))
        except tomllib.TOMLDecodeError:
            continue
        keys = []
        while isinstance(read, dict) and len(read) == 1:
            key, read = next(iter(read.items()))
            keys.append(key)
        if text.startswith("["):
            table = tuple(keys)
        elif keys:
            found[*table, *keys] = number
    return found

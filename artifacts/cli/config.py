"""What the operator says, from the command line, the environment and one TOML file, in that order.

The file is the first that exists of ``--config``, ``$ARTIFACTS_CONFIG``, ``$XDG_CONFIG_HOME/artifacts/artifacts.toml``
(``~/.config`` when unset) and ``/etc/artifacts/artifacts.toml``. What may stand in it is in ``artifacts.cli.schema``,
which is loaded when there is one; here it becomes the entries, options and limits that the rest works with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.errors import RequestError
from creds.endpoint import AWS, Endpoint, Issuer, Lent
from creds.errors import ToolkitError
from creds.store import Ssh, Sts, Tls

if TYPE_CHECKING:
    from artifacts.cli.schema import Document, EndpointTable
    from creds.models import Credentials

SOURCES = ("jwt_file", "jwt_variable", "profile", "ambient", "credentials", "anonymous")
"""The keys of an endpoint that say whose credential serves there; at most one of them."""

_ROLE = ("role_arn", "external_id", "session_name", "session_seconds", "sts_endpoint")
_AT_AWS = frozenset(("region", "buckets", *SOURCES, *_ROLE))
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


class ConfigError(RequestError):
    """Raised when the configuration file cannot be used.

    Args:
        problems: each with the path of its key.
        path: of the file, where that was found.
        warnings: what was noticed beside.
    """

    code = "config"

    def __init__(
        self,
        problems: str | Iterable[str],
        *,
        path: Path | None = None,
        warnings: Iterable[str] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(problems, hint=hint)
        if path is not None:
            self.message = f"{path}: {self.message}"
        self.warnings = tuple(warnings)


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
    return next((path for path in (users(environ), Path("/etc/artifacts/artifacts.toml")) if path.is_file()), None)


def users(environ: Mapping[str, str]) -> Path:
    """The user's own file, whether it exists or not."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/nonexistent"), ".config")  # noqa: PTH118 - joined before it is a path
    return Path(home) / "artifacts" / "artifacts.toml"


def slots(cache: str | None, environ: Mapping[str, str]) -> Path:
    """Where this user's processes agree on how many of them move something: in the cache, or where caches are."""
    if cache is not None:
        return Path(cache) / "slots"
    home = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME", "/nonexistent"), ".cache")  # noqa: PTH118 - joined before it is a path
    return Path(home) / "artifacts" / "slots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a configuration file says; empty where there is none.

    Attributes:
        path: the file.
        network: by the names of the options.
        proxies: as ``StoreOptions.proxies`` has them; the environment comes before them.
        limits: by the names of :class:`artifacts.limits.Limits`.
        cache: its folder.
        host_transfers: how many transfers this machine may have at once.
        warnings: one for each key that is not read.
        document: the file's own tables and keys, for those who show them.
    """

    path: Path | None = None
    endpoints: tuple[Endpoint, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    network: Mapping[str, Any] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: Mapping[str, int] = field(default_factory=dict)
    keep_free_bytes: int | None = None
    file_roots: tuple[str, ...] = ()
    lend_to: tuple[str, ...] = ()
    audit: str | None = None
    deadline_seconds: float | None = None
    cache: str | None = None
    cache_max_bytes: int | None = None
    cache_keep_free_bytes: int | None = None
    host_transfers: int | None = None
    warnings: tuple[str, ...] = ()
    document: Document | None = None

    def filled(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """``options`` of the command line, with the file's where nothing was said."""
        network = dict(self.network)
        if options.get("client_cert") is not None or options.get("client_key") is not None:
            # A certificate and a key of two places do not belong together.
            network = {name: value for name, value in network.items() if not name.startswith("client_")}
        return {**options, **{name: value for name, value in network.items() if options.get(name) is None}}


def load(path: Path) -> Settings:
    """Read a configuration file, and the certificates and credentials that it names.

    Raises:
        ConfigError: the file is no TOML, or an entry is wrong; every problem with the path of its key.
    """
    import tomllib

    from artifacts.cli import schema

    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("it is no text in UTF-8", path=path) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{error}", path=path) from error
    document, problems, unknown = schema.read(content)
    warnings = tuple(f"{path}: {warning}" for warning in unknown)
    reading = _Reading(path, document)
    settings = reading.settings(warnings)
    if problems or reading.problems:
        raise ConfigError([*problems, *reading.problems], path=path, warnings=warnings)
    return settings


class _Reading:
    """One document on its way to settings; what is wrong is gathered."""

    def __init__(self, path: Path, document: Document) -> None:
        self.path = path
        self.document = document
        self.problems: list[str] = []

    def settings(self, warnings: tuple[str, ...]) -> Settings:
        from artifacts.cli.schema import dotted

        document = self.document
        endpoints = [self._endpoint(name, table) for name, table in document.endpoint.items()]
        for name, other in _twice(endpoints):
            self.problems.append(f"{dotted(('endpoint', name))}: is the same server as {dotted(('endpoint', other))}")
        issuers = []
        for iss, issuer in document.issuer.items():
            try:
                issuers.append(
                    Issuer(
                        iss=iss,
                        endpoints=tuple(issuer.endpoints or ()),
                        sts_endpoint=issuer.sts_endpoint,
                        role_arn=issuer.role_arn,
                    )
                )
            except ToolkitError as error:
                self.problems.append(f"{dotted(('issuer', iss, 'sts_endpoint'))}: {error}")
        network = document.network.model_dump(exclude_none=True, exclude=set(_PROXIES))
        if "client_key" in network and "client_cert" not in network:
            self.problems.append("network.client_key: goes with client_cert")
        for name in ("ca", "client_cert", "client_key"):
            if name in network:
                network[name] = self._file(("network", name), network[name])
        if "ca" in network:
            self._pem(("network", "ca"), network["ca"])
        deadline_seconds = network.pop("deadline", None)
        limits = document.limits.model_dump(exclude_none=True)
        policy = document.policy
        return Settings(
            path=self.path,
            endpoints=tuple(endpoint for _, endpoint in endpoints if endpoint is not None),
            issuers=tuple(issuers),
            network=network,
            proxies=self._proxies(),
            keep_free_bytes=limits.pop("keep_free", None),
            limits=limits,
            file_roots=tuple(str(self._at(root)) for root in policy.file_roots or ()),
            lend_to=tuple(policy.lend_to or ()),
            audit=None if policy.audit is None else str(self._at(policy.audit)),
            deadline_seconds=deadline_seconds,
            cache=None if document.cache.dir is None else str(self._at(document.cache.dir)),
            cache_max_bytes=document.cache.max_bytes,
            cache_keep_free_bytes=document.cache.keep_free,
            host_transfers=document.host.transfers,
            warnings=warnings,
            document=document,
        )

    def _endpoint(self, name: str, table: EndpointTable) -> tuple[str, Endpoint | None]:
        from artifacts.cli.schema import dotted

        found = len(self.problems)
        where = ("endpoint", name)
        for key in sorted(table.model_fields_set) if name == AWS else ():
            if key not in _AT_AWS:
                self.problems.append(f"{dotted((*where, key))}: AWS itself has none")
        if table.client_key is not None and table.client_cert is None:
            self.problems.append(f"{dotted((*where, 'client_key'))}: goes with client_cert")
        files = {key: self._given(where, key, table) for key in ("client_cert", "client_key", "known_hosts", "ssh_key")}
        ca = self._given(where, "ca", table)
        certificates = Tls(
            ca_pem=None if ca is None else self._pem((*where, "ca"), ca),
            client_cert=files["client_cert"],
            client_key=files["client_key"],
        )
        ssh = Ssh(known_hosts=files["known_hosts"], fingerprints=tuple(table.host_keys or ()), key=files["ssh_key"])
        lent = self._lent(where, table)
        if len(self.problems) > found:
            return name, None
        try:
            endpoint = Endpoint(
                url=AWS if name == AWS else table.url or f"https://{name}",
                region=table.region,
                addressing=table.addressing or "auto",
                checksums=table.checksums or "auto",
                buckets=None if table.buckets is None else tuple(table.buckets),
                certificates=certificates,
                ssh=ssh,
                lent=lent,
            )
            if name != AWS and endpoint.host != Endpoint(url=f"{endpoint.scheme}://{name}").host:
                self.problems.append(f"{dotted((*where, 'url'))} names another host: {endpoint.host}")
        except ToolkitError as error:
            self.problems.append(f"{dotted((*where, 'url') if table.url else where)}: {error}")
            return name, None
        return name, endpoint

    def _lent(self, where: tuple[str, ...], table: EndpointTable) -> Lent | None:
        """Whose credential serves at an endpoint, or None where the entry does not say."""
        from artifacts.cli.schema import dotted
        from creds.tokens import TokenFile, TokenVariable

        given = [key for key in SOURCES if getattr(table, key)]
        role = [key for key in _ROLE if getattr(table, key) is not None]
        if len(given) > 1:
            self.problems.append(f"{dotted(where)}: {' and '.join(given)} exclude each other")
        elif role and given in ([], ["anonymous"]):
            self.problems.append(f"{dotted((*where, role[0]))}: goes with one of {', '.join(SOURCES[:-1])}")
        if len(given) != 1:
            return None
        token: TokenFile | TokenVariable | None = None
        if table.jwt_file is not None:
            token = TokenFile(self._at(table.jwt_file))
        elif table.jwt_variable is not None:
            token = TokenVariable(table.jwt_variable)
        try:
            sts = Sts(
                role_arn=table.role_arn,
                external_id=None if table.external_id is None else table.external_id.get_secret_value(),
                session_name=table.session_name or Sts().session_name,
                duration_seconds=table.session_seconds,
                endpoint_url=table.sts_endpoint,
            )
        except ToolkitError as error:
            self.problems.append(f"{dotted((*where, 'session_name'))}: {error}")
            return None
        return Lent(
            token=token,
            profile=table.profile,
            ambient=bool(table.ambient),
            credentials=self._credentials(where, table),
            sts=sts,
        )

    def _credentials(self, where: tuple[str, ...], table: EndpointTable) -> Credentials | None:
        from artifacts.cli.schema import dotted
        from artifacts.request import loads_credentials

        name = self._given(where, "credentials", table)
        if name is None or not Path(name).is_file():  # which was told
            return None
        try:
            return loads_credentials(Path(name).read_bytes())
        except OSError as error:
            self.problems.append(f"{dotted((*where, 'credentials'))}: {name}: {error.strerror}")
        except RequestError as error:
            self.problems.append(f"{dotted((*where, 'credentials'))}: {name}: {error}")
        return None

    def _proxies(self) -> dict[str, str]:
        network = self.document.network
        given = {"http": network.http_proxy, "https": network.https_proxy}
        found = {scheme: secret.get_secret_value() for scheme, secret in given.items() if secret is not None}
        return found | ({} if network.no_proxy is None else {"no": network.no_proxy})

    def _at(self, name: str) -> Path:
        """A path of the file: ``~`` is the user's home, and a relative one counts from the file's folder."""
        return Path(os.path.abspath(self.path.parent / Path(name).expanduser()))  # noqa: PTH100 - symlinks stay

    def _given(self, where: tuple[str, ...], key: str, table: EndpointTable) -> str | None:
        name = getattr(table, key)
        return None if name is None else self._file((*where, key), name)

    def _file(self, where: tuple[str, ...], name: str) -> str:
        from artifacts.cli.schema import dotted

        path = self._at(name)
        if not path.is_file():
            self.problems.append(f"{dotted(where)}: {path} is no file")
        return str(path)

    def _pem(self, where: tuple[str, ...], name: str) -> bytes | None:
        from artifacts.cli.schema import dotted

        if not Path(name).is_file():
            return None  # told before
        try:
            return pem(name)
        except ConfigError as error:
            self.problems.append(f"{dotted(where)}: {error}")
            return None


def pem(name: str) -> bytes:
    """The certificates in a file.

    Raises:
        ConfigError: it cannot be read, or holds none.
    """
    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in content or not content.isascii():
        raise ConfigError(f"{name} holds no certificate in PEM form")
    return content


def _twice(endpoints: Iterable[tuple[str, Endpoint | None]]) -> Iterator[tuple[str, str]]:
    names: dict[str, str] = {}
    for name, endpoint in endpoints:
        if endpoint is not None and names.setdefault(endpoint.host, name) != name:
            yield name, names[endpoint.host]


def endpoints(named: Iterable[str], environ: Mapping[str, str], file: Iterable[Endpoint]) -> list[Endpoint]:
    """Every endpoint the operator names; the command line's URL wins over the environment's and the file's.

    Of an endpoint that the file has too, with the same URL, the file's entry stays: it says more.
    """
    from_environ = environ.get("ARTIFACTS_ENDPOINTS", "").replace(",", " ").split()
    chosen = {endpoint.host: endpoint for endpoint in file}
    for url in reversed([*named, *from_environ]):
        endpoint = Endpoint.parse(url)
        entry = chosen.get(endpoint.host)
        if entry is None or entry.url != endpoint.url:
            chosen[endpoint.host] = endpoint
    return list(chosen.values())

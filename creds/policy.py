"""Who may be reached, decided before any connection: a request is input, not an order.

A :class:`Policy` answers with a :class:`Verdict` that names its rule, so that a person can read why, and which flag
would change it. Deciding is pure. What a name resolves to is looked at once, by :meth:`Policy.check_addresses`, before
a store's first connection.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from creds.errors import LocationError, PolicyError, StoreUnavailable
from creds.location import (
    DEFAULT_REGION,
    USUAL_PORTS,
    Location,
    address_of,
    aws_host,
    aws_url,
    quoted,
    split_host,
    split_server,
    split_url,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[..., Iterable[tuple[Any, ...]]]

_METADATA_NAMES = frozenset(
    ("metadata.google.internal", "metadata.goog", "metadata", "instance-data", "instance-data.ec2.internal")
)
_METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack and most others
        "169.254.170.2",  # credentials of Amazon ECS tasks
        "169.254.170.23",  # credentials of Amazon EKS pods
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's host
        "192.0.0.192",  # Oracle Cloud, first generation
    )
)
# How a scheme is written over TLS, and in plaintext.
_SPELLED = {"s3": ("s3+https", "s3+http"), "http": ("https", "http"), "https": ("https", "http")}
_FORBIDDEN = {"metadata-address": "a cloud's metadata address", "link-local": "a link-local address"}
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.ip_network("::/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What the operator says of one endpoint. Naming it allows it: its address, and its plaintext if it is http.

    Attributes:
        url: ``https://host[:port]`` or ``http://host[:port]`` for S3 and web servers; ``ftp://``, ``ftps://``,
            ``ftps+implicit://`` or ``sftp://`` for servers of files.
        region: signs requests to it; None leaves that to the other sources.
        addressing: ``path``, ``virtual`` or ``auto``.
        checksums: ``always``, ``never`` or ``auto``.
        host: ``host:port``, lower case, the port always there: what locations are compared with.

    Raises:
        LocationError: the URL holds more than a scheme, a host and a port, or a setting is none of its words.
    """

    url: str
    region: str | None = None
    addressing: str = "auto"
    checksums: str = "auto"
    host: str = field(init=False)

    def __post_init__(self) -> None:
        scheme, host, port = split_server(self.url)
        for name, value, words in (
            ("addressing", self.addressing, ("auto", "path", "virtual")),
            ("checksums", self.checksums, ("auto", "always", "never")),
        ):
            if value not in words:
                raise LocationError(f"{name} of an endpoint is {value!r}", hint=f"one of {', '.join(words)}")
        usual = port == USUAL_PORTS[scheme]
        object.__setattr__(self, "url", f"{scheme}://{host}" if usual else f"{scheme}://{host}:{port}")
        object.__setattr__(self, "host", f"{host}:{port}")

    @classmethod
    def parse(cls, url: str) -> Self:
        """An endpoint by its URL alone, as ``--endpoint`` names it."""
        return cls(url=url)

    @property
    def tls(self) -> bool:
        """Is it spoken to over TLS, or SSH?"""
        return self.scheme not in ("http", "ftp")

    @property
    def scheme(self) -> str:
        """What it speaks."""
        return self.url.partition(":")[0]

    @property
    def rule(self) -> str:
        """The name of the rule that naming this endpoint makes."""
        return f"endpoint.{self.host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """What the operator says of the tokens of one issuer.

    Attributes:
        iss: the claim of its tokens, compared as it is.
        endpoints: where the operator's own tokens and roles may serve: ``host``, ``host:port`` or ``*.domain[:port]``
            (443 where there is no port), or the word ``aws`` for AWS itself over TLS.
        sts_endpoint: ``http(s)://host[:port]`` that turns its tokens into keys for these endpoints; None is AWS'
            regional one for buckets at AWS and the S3 endpoint itself for others.
        role_arn: the role to take for these endpoints; None where the server needs none.
        verify: called with each token before it is used, such as a :class:`creds.tokens.Verifier`; raises if the token
            does not hold.

    Raises:
        LocationError: an endpoint is none.
    """

    iss: str
    endpoints: tuple[str, ...] = ()
    sts_endpoint: str | None = None
    role_arn: str | None = None
    verify: Callable[[Any], object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for pattern in self.endpoints:
            if pattern != "aws":
                split_url(f"https://{pattern.removeprefix('*.')}")
        if self.sts_endpoint is not None:
            split_url(self.sts_endpoint)

    def serves(self, endpoint_url: str) -> bool:
        """May what the operator lends for these tokens be used at ``endpoint_url``?"""
        tls, host, port = split_url(endpoint_url)
        return any(_matches(pattern, host, port, tls=tls) for pattern in self.endpoints)


def _matches(pattern: str, host: str, port: int, *, tls: bool) -> bool:
    if pattern == "aws":
        return tls and port == 443 and aws_host(host) is not None
    _, wanted, wanted_port = split_url(f"https://{pattern.removeprefix('*.')}")
    if port != wanted_port:
        return False
    return host.endswith(f".{wanted}") if pattern.startswith("*.") else host == wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision about one location, for programs and for people.

    Attributes:
        allowed: the answer.
        rule: the name of the rule that gave it.
        reason: why, in one line.
        hint: the flag that would change a refusal, or None.
        location: what was decided about.
        endpoint_url: the http(s) URL to connect to; None for a file. For AWS that of the region the location names,
            else of us-east-1; opening a store puts that of the region it finds.
        endpoint: the operator's entry that applies, or None.
        root: for a file, the folder that bounds it.
        key: for a file, its path below ``root``; else the location's key.
    """

    allowed: bool
    rule: str
    reason: str
    hint: str | None = None
    location: Location
    endpoint_url: str | None = None
    endpoint: Endpoint | None = None
    root: str | None = None
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be reached. Make one with :meth:`for_requests` or :meth:`for_caller`.

    Attributes:
        endpoints: the named endpoints by ``host:port``.
        file_roots: absolute folders below which ``file:`` locations may be.
        caller: the caller's own authority, not a request's.
        default: the caller's ``--endpoint-url``: where buckets are that have no endpoint of their own.
        issuers: what is known of the issuers of tokens, by ``iss``.
        resolver: called as :func:`socket.getaddrinfo`.
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    file_roots: tuple[str, ...] = ()
    caller: bool = False
    default: Endpoint | None = None
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    resolver: Resolver = socket.getaddrinfo

    @classmethod
    def for_requests(
        cls,
        endpoints: Iterable[Endpoint | str] = (),
        *,
        file_roots: Iterable[str | os.PathLike[str]] = (),
        issuers: Iterable[Issuer] = (),
        resolver: Resolver = socket.getaddrinfo,
    ) -> Self:
        """What a request may reach: AWS over TLS, and whatever the operator names.

        Args:
            endpoints: each a URL or an :class:`Endpoint`.
            file_roots: folders; a relative one counts from the working directory of now.
            issuers: whose tokens are known, and where what the operator lends for them may serve.
            resolver: called as :func:`socket.getaddrinfo`.

        Raises:
            LocationError: an endpoint is no endpoint, or it or an issuer is named in two ways that exclude each other.
        """
        # A root is compared with what a location says, so its symlinks stay.
        roots = tuple(os.path.abspath(root) for root in file_roots)  # noqa: PTH100 - resolve() would follow symlinks
        return cls(endpoints=_by_host(endpoints), file_roots=roots, issuers=_by_iss(issuers), resolver=resolver)

    @classmethod
    def for_caller(
        cls,
        endpoint_url: str | None = None,
        endpoints: Iterable[Endpoint | str] = (),
        *,
        issuers: Iterable[Issuer] = (),
        resolver: Resolver = socket.getaddrinfo,
    ) -> Self:
        """What the caller's own command may reach: every https endpoint, every file, loopback in plaintext.

        Args:
            endpoint_url: serves the locations that have no endpoint of their own, as in ``aws --endpoint-url``.
            endpoints: further endpoints by name, such as those in plaintext.
            issuers: as :meth:`for_requests`; what the caller lends may go wherever the caller's command points.
            resolver: called as :func:`socket.getaddrinfo`.

        Raises:
            LocationError: as :meth:`for_requests`.
        """
        named = [endpoint if isinstance(endpoint, Endpoint) else Endpoint.parse(endpoint) for endpoint in endpoints]
        default = None
        if endpoint_url is not None:
            default = Endpoint.parse(endpoint_url)
            default = next((endpoint for endpoint in named if endpoint.url == default.url), default)
            named.append(default)
        return cls(endpoints=_by_host(named), caller=True, default=default, issuers=_by_iss(issuers), resolver=resolver)

    def check(self, location: Location) -> Verdict:
        """:meth:`decide`, with a refusal raised.

        Raises:
            PolicyError: refused; ``rule`` says by which rule, the hint names the flag.
        """
        verdict = self.decide(location)
        if not verdict.allowed:
            raise PolicyError(
                f"{location}: {verdict.reason}", rule=verdict.rule, location=str(location), hint=verdict.hint
            )
        return verdict

    def decide(self, location: Location) -> Verdict:
        """May ``location`` be reached, and at which URL? No I/O."""
        if location.scheme == "file":
            return self._decide_file(location)
        if location.endpoint is not None:
            return self._decide_endpoint(location, location.endpoint)
        if self.default is not None and location.aws_host is None:
            return _allowed(location, "caller", "the endpoint of --endpoint-url", self.default.url, self.default)
        if location.tls is False:
            return _refused(location, "plaintext", "AWS is reached over TLS only", "write it as s3://")
        url = aws_url(location.aws_host, location.region or DEFAULT_REGION)
        return _allowed(location, "aws", "AWS over TLS", url)

    def _decide_endpoint(self, location: Location, name: str) -> Verdict:
        host, port = split_host(name)
        if location.scheme not in _SPELLED:
            return self._decide_server(location, name)
        ports = (port,) if port else {True: (443,), False: (80,), None: (443, 80)}[location.tls]
        for number in ports:
            endpoint = self.endpoints.get(f"{host}:{number}")
            if endpoint is not None:
                return _decide_named(location, endpoint)

        rule = _forbidden_name(host)
        if rule is not None:
            return _refused(location, rule, f"{host} is {_FORBIDDEN[rule]}", _flag(location, name))
        if not self.caller:
            if location.tls is False:
                reason = f"a request may not use plaintext, and the endpoint {name} is not named"
                return _refused(location, "plaintext", reason, _flag(location, name))
            return _refused(location, "not-named", f"the endpoint {name} is not named", _flag(location, name))
        tls = location.tls
        if tls is not True and _is_loopback(host):
            return _allowed(location, "caller", "loopback, in plaintext", f"http://{name}")
        if tls is False:
            reason = f"plaintext beyond this machine, and the endpoint {name} is not named"
            return _refused(location, "plaintext", reason, _flag(location, name))
        return _allowed(location, "caller", "the caller's own, over TLS", f"https://{name}")

    def _decide_server(self, location: Location, name: str) -> Verdict:
        """A server of files: off for requests unless it is named; for the caller plaintext on loopback alone."""
        host, port = split_host(name)
        endpoint = self.endpoints.get(f"{host}:{port or USUAL_PORTS[location.scheme]}")
        if endpoint is not None:
            return _decide_named(location, endpoint)
        url = f"{location.scheme}://{name}"
        add = f"add --endpoint {url}"
        rule = _forbidden_name(host)
        if rule is not None:
            return _refused(location, rule, f"{host} is {_FORBIDDEN[rule]}", add)
        if not self.caller:
            return _refused(location, "not-named", f"the endpoint {name} is not named", add)
        if location.scheme == "ftp" and not _is_loopback(host):
            reason = f"plaintext beyond this machine, and the endpoint {name} is not named"
            return _refused(location, "plaintext", reason, add)
        return _allowed(location, "caller", "the caller's own", url)

    def _decide_file(self, location: Location) -> Verdict:
        parts = [part for part in location.key.split("/") if part not in ("", ".")]
        end = "/" if location.key.endswith("/") else ""
        if self.caller:
            root = "/" + "/".join(parts[:-1])
            return Verdict(
                allowed=True,
                rule="caller",
                reason="the caller's own file",
                location=location,
                root=root,
                key=parts[-1] + end,
            )
        for root in sorted(self.file_roots, key=len, reverse=True):
            above = [part for part in root.split("/") if part]
            if len(parts) > len(above) and parts[: len(above)] == above:
                return Verdict(
                    allowed=True,
                    rule=f"file-root.{quoted(root)}",
                    reason=f"below the file root {quoted(root)}",
                    location=location,
                    root=root,
                    key="/".join(parts[len(above) :]) + end,
                )
        folder = "/" + "/".join(parts[:-1])
        value = shlex.quote(folder) if folder.isprintable() else quoted(folder)
        return _refused(location, "file", "a file outside every file root", f"add --file-root {value}")

    def issuer(self, iss: str, endpoint_url: str) -> Issuer | None:
        """The entry for tokens of ``iss`` at this endpoint, or None. ``iss`` may be anything that a token claims."""
        entry = self.issuers.get(iss)
        return entry if entry is not None and (self.caller or entry.serves(endpoint_url)) else None

    def check_lent(self, what: str, endpoint_url: str, iss: str | None = None) -> None:
        """Refuse to use something of the operator's own, a token or a role, where nobody said that it may serve.

        The rule: a token that a request carries may go to the request's own endpoint. What the operator lends goes only
        to endpoints that the issuer table names, or where the caller's own command points.

        Args:
            what: for the message.
            endpoint_url: of the store.
            iss: of the token; None is any issuer of the table.

        Raises:
            PolicyError: the table does not name the endpoint.
        """
        if self.caller:
            return
        entries = self.issuers.values() if iss is None else [e for e in (self.issuers.get(iss),) if e is not None]
        if not any(entry.serves(endpoint_url) for entry in entries):
            raise PolicyError(
                f"{what} may not be used at {endpoint_url}",
                rule="issuer",
                hint="name the endpoint in the issuer table"
                if iss is None
                else "name the issuer, and the endpoint, in the issuer table",
            )

    def check_addresses(self, verdict: Verdict) -> None:
        """Resolve the endpoint of an allowed location and refuse what no name may lead to.

        A store calls this once, before its first connection. An address that was itself named as an endpoint is not
        looked at again. What the engine resolves later may differ; TLS bounds that.

        Args:
            verdict: of :meth:`check`.

        Raises:
            PolicyError: the name leads to a metadata or link-local address.
            StoreUnavailable: the name does not resolve.
        """
        if verdict.endpoint_url is None:
            return
        _, host, port = split_url(verdict.endpoint_url)
        if address_of(host) is not None and verdict.endpoint is not None:
            return
        self.addresses(host.strip("[]"), port, str(verdict.location))

    def addresses(self, host: str, port: int, shown: str) -> list[str]:
        """What ``host`` resolves to now, if all of it may be connected to.

        Args:
            host: a name or a literal address, IPv6 without brackets.
            shown: what is to be reached, masked, for messages.

        Raises:
            PolicyError: the name leads to a metadata or link-local address that is not named itself.
            StoreUnavailable: the name does not resolve.
        """
        try:
            found = [str(entry[4][0]) for entry in self.resolver(host, port, type=socket.SOCK_STREAM)]
        except OSError as error:
            raise StoreUnavailable(
                f"{shown}: the name {host} does not resolve: {error.strerror or error}",
                location=shown,
                hint="check the host's name and this machine's DNS",
            ) from error
        for text in found:
            address = ipaddress.ip_address(text.partition("%")[0])
            rule = _forbidden(address)
            named = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
            if rule is not None and not (address_of(host) is not None and named in self.endpoints):
                raise PolicyError(
                    f"{shown}: the name {host} leads to {address}, {_FORBIDDEN[rule]}",
                    rule=rule,
                    location=shown,
                    hint="only the address itself can be named with --endpoint, not a name that leads to it",
                )
        return found


def _decide_named(location: Location, endpoint: Endpoint) -> Verdict:
    """The verdict on a location whose endpoint the operator names, if both agree on what is spoken."""
    if (location.scheme not in _SPELLED or endpoint.scheme not in ("http", "https")) and (
        location.scheme != endpoint.scheme
    ):
        reason = f"the endpoint is named for {endpoint.scheme}: {endpoint.url}"
        return _refused(location, "not-named", reason, f"write the location as {endpoint.scheme}://")
    if location.tls in (None, endpoint.tls):
        reason = f"the endpoint {endpoint.url} is named"
        return _allowed(location, endpoint.rule, reason, endpoint.url, endpoint)
    over_tls, in_plaintext = _SPELLED[location.scheme]
    if endpoint.tls:
        reason = f"the location is in plaintext, and the endpoint is named with TLS: {endpoint.url}"
        return _refused(location, "plaintext", reason, f"write the location as {over_tls}://")
    reason = f"the location is over TLS, and the endpoint is named without: {endpoint.url}"
    hint = f"write the location as {in_plaintext}://, or name https://{endpoint.host} instead"
    return _refused(location, "not-named", reason, hint)


def _allowed(
    location: Location, rule: str, reason: str, endpoint_url: str | None, endpoint: Endpoint | None = None
) -> Verdict:
    return Verdict(
        allowed=True,
        rule=rule,
        reason=reason,
        location=location,
        endpoint_url=endpoint_url,
        endpoint=endpoint,
        key=location.key,
    )


def _refused(location: Location, rule: str, reason: str, hint: str | None = None) -> Verdict:
    return Verdict(allowed=False, rule=rule, reason=reason, hint=hint, location=location, key=location.key)


def _flag(location: Location, name: str) -> str:
    """The flag that would name the endpoint. Without a scheme, a host with a port is more often in plaintext."""
    if location.tls is None:
        host, port = split_host(name)
        if port in (None, 443):
            return f"add --endpoint https://{host} (http:// if it speaks no TLS)"
        return f"add --endpoint http://{name} (https:// if it speaks TLS)"
    return f"add --endpoint {'https' if location.tls else 'http'}://{name}"


def _by_host(endpoints: Iterable[Endpoint | str]) -> Mapping[str, Endpoint]:
    named: dict[str, Endpoint] = {}
    for given in endpoints:
        endpoint = given if isinstance(given, Endpoint) else Endpoint.parse(given)
        other = named.setdefault(endpoint.host, endpoint)
        if other != endpoint:
            raise LocationError(
                f"the endpoint {endpoint.host} is named twice: as {other.url} and as {endpoint.url}",
                hint="one port speaks either http or https, and has one set of settings",
            )
    return named


def _by_iss(issuers: Iterable[Issuer]) -> Mapping[str, Issuer]:
    named: dict[str, Issuer] = {}
    for issuer in issuers:
        if named.setdefault(issuer.iss, issuer) != issuer:
            raise LocationError(f"the issuer {issuer.iss!r} is named twice", hint="put its endpoints into one entry")
    return named


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    address = address_of(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and address.is_loopback


def _forbidden_name(host: str) -> str | None:
    """The rule that forbids ``host`` by its name or, for a literal, its address."""
    if host in _METADATA_NAMES:
        return "metadata-address"
    address = address_of(host)
    return None if address is None else _forbidden(address)


def _forbidden(address: Address) -> str | None:
    """The rule that forbids ``address`` unless it is named itself."""
    meanings = _meanings(address)
    if any(inner in _METADATA_ADDRESSES for inner in meanings):
        return "metadata-address"
    if any(inner in network for inner in meanings for network in _LINK_LOCAL):
        return "link-local"
    return None


def _meanings(address: Address) -> tuple[Address, ...]:
    """``address`` and every IPv4 address that a machine may reach through it."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    inner: list[Address] = [address]
    if address.ipv4_mapped is not None:
        inner.append(address.ipv4_mapped)
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner.extend(address.teredo)
    if any(address in network for network in (*_NAT64, _COMPATIBLE)):
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(inner)

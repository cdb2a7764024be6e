"""Who may be reached, decided before any connection: a request is input, not an order.

A :class:`Policy` answers with a :class:`Verdict` that names its rule, so that a person can read why, and which flag
would change it. Deciding is pure. What a name resolves to is looked at once, by :meth:`Policy.check_addresses`, before
a store's first connection.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from creds.endpoint import AWS, check_pattern, matches
from creds.endpoint import Endpoint as Endpoint
from creds.endpoint import Issuer as Issuer
from creds.endpoint import Lent as Lent
from creds.errors import LocationError, PolicyError, StoreUnavailable
from creds.location import (
    DEFAULT_REGION,
    USUAL_PORTS,
    Location,
    address_of,
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
_CONFIG = "artifacts.toml"
_FORBIDDEN = {"metadata-address": "a cloud's metadata address", "link-local": "a link-local address"}
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.ip_network("::/96")


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
        endpoint: the operator's entry for the server, or None; of a pattern, that of the one host.
        terms: the operator's entry that applies: ``endpoint``, or the one for ``aws``.
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
    terms: Endpoint | None = None
    root: str | None = None
    key: str = ""

    def checked(self) -> Self:
        """This verdict, if it allows the location.

        Raises:
            PolicyError: it does not.
        """
        if not self.allowed:
            where = str(self.location)
            raise PolicyError(f"{where}: {self.reason}", rule=self.rule, location=where, hint=self.hint)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision for the record (``Policy.on_decision``). It holds no secret.

    Attributes:
        about: what the caller said that it is about, such as an artifact's label; None where nothing was said.
        step: ``open`` a location, ``redirect`` to another, or connect to the ``address`` behind a name.
        location: masked.
        allowed, rule, reason: as in a :class:`Verdict`; of a credential's refusal, its rule and message.
        endpoint_url: where the connection would go; None where it goes nowhere, or to a file.
        credential: kind, masked id, source and end of what it would be opened with; None where that was not reached.
    """

    about: str | None = None
    step: str
    location: str
    allowed: bool
    rule: str
    reason: str
    endpoint_url: str | None = None
    credential: Mapping[str, str | None] | None = None


OnDecision = Callable[[Decision], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may be reached. Make one with :meth:`for_requests` or :meth:`for_caller`.

    Attributes:
        endpoints: the named endpoints by ``host:port``.
        file_roots: absolute folders below which ``file:`` locations may be.
        caller: the caller's own authority, not a request's.
        default: the caller's ``--endpoint-url``: where buckets are that have no endpoint of their own.
        issuers: what is known of the issuers of tokens, by ``iss``.
        lend_to: where else than at the issuers' endpoints the operator's own tokens, roles and keys may serve, as
            :func:`creds.endpoint.matches` reads them.
        lent: the caller's own credential where neither the location nor the endpoint's entry has one.
        resolver: called as :func:`socket.getaddrinfo`.
        on_decision: called with each decision of :func:`creds.resolve.resolve` and of the stores it opens, before
            anything follows from it; what it raises stops the work.
        subject: what the decisions are about, for ``on_decision``.
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    file_roots: tuple[str, ...] = ()
    caller: bool = False
    default: Endpoint | None = None
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    lend_to: tuple[str, ...] = ()
    lent: Lent | None = None
    resolver: Resolver = socket.getaddrinfo
    on_decision: OnDecision | None = field(default=None, repr=False, compare=False)
    subject: str | None = None

    def __post_init__(self) -> None:
        for pattern in self.lend_to:
            check_pattern(pattern)

    @classmethod
    def for_requests(
        cls,
        endpoints: Iterable[Endpoint | str] = (),
        *,
        file_roots: Iterable[str | os.PathLike[str]] = (),
        issuers: Iterable[Issuer] = (),
        lend_to: Iterable[str] = (),
        resolver: Resolver = socket.getaddrinfo,
        on_decision: OnDecision | None = None,
    ) -> Self:
        """What a request may reach: AWS over TLS, and whatever the operator names.

        Args:
            endpoints: each a URL or an :class:`Endpoint`.
            file_roots: folders; a relative one counts from the working directory of now.
            issuers: whose tokens are known, and where what the operator lends for them may serve.
            lend_to: further endpoints where it may: ``host``, ``host:port``, ``*.domain[:port]`` or ``aws``.
            resolver: called as :func:`socket.getaddrinfo`.
            on_decision: called with each decision; see :class:`Policy`.

        Raises:
            LocationError: an endpoint is no endpoint, or it or an issuer is named in two ways that exclude each other.
        """
        # A root is compared with what a location says, so its symlinks stay.
        roots = tuple(os.path.abspath(root) for root in file_roots)  # noqa: PTH100 - resolve() would follow symlinks
        return cls(
            endpoints=_by_host(endpoints),
            file_roots=roots,
            issuers=_by_iss(issuers),
            lend_to=tuple(lend_to),
            resolver=resolver,
            on_decision=on_decision,
        )

    @classmethod
    def for_caller(
        cls,
        endpoint_url: str | None = None,
        endpoints: Iterable[Endpoint | str] = (),
        *,
        issuers: Iterable[Issuer] = (),
        lent: Lent | None = None,
        resolver: Resolver = socket.getaddrinfo,
        on_decision: OnDecision | None = None,
    ) -> Self:
        """What the caller's own command may reach: every https endpoint, every file, loopback in plaintext.

        Args:
            endpoint_url: serves the locations that have no endpoint of their own, as in ``aws --endpoint-url``.
            endpoints: further endpoints by name, such as those in plaintext.
            issuers: as :meth:`for_requests`; what the caller lends may go wherever the caller's command points.
            lent: the caller's own credential where neither the location nor the endpoint's entry has one.
            resolver: called as :func:`socket.getaddrinfo`.
            on_decision: called with each decision; see :class:`Policy`.

        Raises:
            LocationError: as :meth:`for_requests`.
        """
        named = [endpoint if isinstance(endpoint, Endpoint) else Endpoint.parse(endpoint) for endpoint in endpoints]
        default = None
        if endpoint_url is not None:
            default = Endpoint.parse(endpoint_url)
            if default.pattern:
                raise LocationError(f"{endpoint_url} is no single server", hint="write it as https://host:port")
            default = next((endpoint for endpoint in named if endpoint.url == default.url), default)
            named.append(default)
        return cls(
            endpoints=_by_host(named),
            caller=True,
            default=default,
            issuers=_by_iss(issuers),
            lent=lent,
            resolver=resolver,
            on_decision=on_decision,
        )

    def concerning(self, subject: str) -> Self:
        """This policy, whose decisions are told as about ``subject``."""
        return self if self.on_decision is None else replace(self, subject=subject)

    def tell(self, decision: Decision) -> None:
        """Hand one decision to ``on_decision``, if there is one."""
        if self.on_decision is not None:
            self.on_decision(replace(decision, about=self.subject))

    def entry(self, host: str, port: int) -> Endpoint | None:
        """The operator's entry for a server: by its name, or the longest pattern that fits, unless that is forbidden.

        Args:
            host: in its one spelling.
        """
        named = self.endpoints.get(f"{host}:{port}")
        if named is not None or _forbidden_name(host) is not None:
            return named
        labels = host.split(".")
        keys = (f"*.{'.'.join(labels[start:])}:{port}" for start in range(1, len(labels)))
        return next((self.endpoints[key] for key in keys if key in self.endpoints), None)

    def check(self, location: Location) -> Verdict:
        """:meth:`decide`, with a refusal raised.

        Raises:
            PolicyError: refused; ``rule`` says by which rule, the hint names the flag.
        """
        return self.decide(location).checked()

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
        terms = self.endpoints.get(AWS)
        if (refused := self._refused_bucket(location, terms)) is not None:
            return refused
        url = aws_url(location.aws_host, location.region or DEFAULT_REGION)
        return replace(_allowed(location, "aws", "AWS over TLS", url), terms=terms)

    def _decide_named(self, location: Location, entry: Endpoint, host: str) -> Verdict:
        """The verdict on a location whose server has an entry."""
        verdict = _decide_named(location, entry, entry.at(host) if entry.pattern else entry)
        refused = self._refused_bucket(location, entry) if verdict.allowed else None
        return refused or verdict

    def _refused_bucket(self, location: Location, terms: Endpoint | None) -> Verdict | None:
        """The refusal of a bucket that a request may not reach, or None."""
        if terms is None or terms.buckets is None or self.caller:
            return None
        parts = location.key.split("/")
        bucket = location.bucket or (parts.pop(0) if len(parts) > 1 else "")
        if not bucket or {".", ".."} & {bucket, *parts}:
            reason = f"the path does not say for certain which bucket of {terms.host} it is in"
            return _refused(location, "bucket", reason, "write it as /bucket/key, with no part that is . or ..")
        if terms.holds(bucket):
            return None
        reason = f"the bucket {quoted(bucket)} is none of those that requests may reach at {terms.host}"
        hint = f'add "{quoted(bucket)}" to buckets of [endpoint."{terms.host}"] in {_CONFIG}'
        return _refused(location, "bucket", reason, hint)

    def _decide_endpoint(self, location: Location, name: str) -> Verdict:
        host, port = split_host(name)
        if location.scheme not in _SPELLED:
            return self._decide_server(location, name)
        ports = (port,) if port else {True: (443,), False: (80,), None: (443, 80)}[location.tls]
        for number in ports:
            entry = self.entry(host, number)
            if entry is not None:
                return self._decide_named(location, entry, host)

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
        entry = self.entry(host, port or USUAL_PORTS[location.scheme])
        if entry is not None:
            return self._decide_named(location, entry, host)
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
                key=parts[-1] + end if parts else "",
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
        import shlex

        value = shlex.quote(folder) if folder.isprintable() else quoted(folder)
        return _refused(location, "file", "a file outside every file root", f"add --file-root {value}")

    def issuer(self, iss: str, endpoint_url: str) -> Issuer | None:
        """The entry for tokens of ``iss`` at this endpoint, or None. ``iss`` may be anything that a token claims."""
        entry = self.issuers.get(iss)
        return entry if entry is not None and (self.caller or entry.serves(endpoint_url)) else None

    def lends(self, endpoint_url: str, iss: str | None = None) -> bool:
        """May something of the operator's own be used at ``endpoint_url``?

        Args:
            iss: of a token; None is any issuer of the table.
        """
        if self.caller or matches(self.lend_to, endpoint_url):
            return True
        entries = self.issuers.values() if iss is None else [e for e in (self.issuers.get(iss),) if e is not None]
        return any(entry.serves(endpoint_url) for entry in entries)

    def check_lent(self, what: str, endpoint_url: str, iss: str | None = None, *, key: str | None = None) -> None:
        """Refuse to use something of the operator's own where nobody said that it may serve: a token, a role, keys.

        The rule: a credential that a request carries may go to the request's own endpoint. What the operator lends goes
        only to endpoints that ``lend_to`` or the issuer table names, or where the caller's own command points.

        Args:
            what: for the message.
            endpoint_url: of the store.
            iss: of the token; None is any issuer of the table.
            key: what in the endpoint's entry would lend the same, for the hint.

        Raises:
            PolicyError: neither names the endpoint.
        """
        if self.lends(endpoint_url, iss):
            return
        name = _lending_name(endpoint_url)
        ways = [f"add --lend-to {name}"]
        if key is not None:
            import json

            ways.append(f"write {key} into [endpoint.{name if name == AWS else json.dumps(name)}] of {_CONFIG}")
        if iss is not None:
            ways.append("name the issuer, and the endpoint, in the issuer table")
        raise PolicyError(f"{what} may not be used at {endpoint_url}", rule="lending", hint=", or ".join(ways))

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
                reason = f"the name {host} leads to {address}, {_FORBIDDEN[rule]}"
                self.tell(Decision(step="address", location=shown, allowed=False, rule=rule, reason=reason))
                raise PolicyError(
                    f"{shown}: {reason}",
                    rule=rule,
                    location=shown,
                    hint="only the address itself can be named with --endpoint, not a name that leads to it",
                )
        return found


def _decide_named(location: Location, entry: Endpoint, endpoint: Endpoint) -> Verdict:
    """The verdict on a location whose endpoint ``entry`` names, if both agree on what is spoken."""
    if (location.scheme not in _SPELLED or endpoint.scheme not in ("http", "https")) and (
        location.scheme != endpoint.scheme
    ):
        reason = f"the endpoint is named for {endpoint.scheme}: {endpoint.url}"
        return _refused(location, "not-named", reason, f"write the location as {endpoint.scheme}://")
    if location.tls in (None, endpoint.tls):
        reason = f"the endpoint {endpoint.url} is named"
        return _allowed(location, entry.rule, reason, endpoint.url, endpoint)
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
        terms=endpoint,
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


def _lending_name(endpoint_url: str) -> str:
    """How ``lend_to`` names an endpoint."""
    scheme, host, port = split_server(endpoint_url)
    if matches((AWS,), endpoint_url):
        return AWS
    return host if scheme == "https" and port == 443 else f"{host}:{port}"


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

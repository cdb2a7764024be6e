"""What the operator says of an endpoint, and of the issuers of tokens: the entries that a policy decides by."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from creds.errors import LocationError
from creds.location import USUAL_PORTS, address_of, aws_host, split_server, split_url
from creds.store import Ssh, StoreOptions, Sts, Tls

if TYPE_CHECKING:
    from creds.models import Credentials

AWS = "aws"
"""Stands for AWS' own S3, over TLS, where an endpoint is named."""

_NO_TLS, _NO_SSH = Tls(), Ssh()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """The operator's own credential for locations that have none of their own. All empty is nobody: anonymous.

    Attributes:
        token: makes the operator's JWT, as :class:`~creds.store.Sts` has it.
        profile: a profile of the machine's AWS configuration.
        ambient: the machine's own AWS chain.
        credentials: as a request carries them.
        sts: the role to take with it, and how; its ``token`` is not read.
    """

    token: Callable[[], Any] | None = field(default=None, repr=False, hash=False)
    profile: str | None = None
    ambient: bool = False
    credentials: Credentials | None = field(default=None, repr=False)
    sts: Sts = field(default_factory=Sts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What the operator says of one endpoint. Naming it allows it: its address, and its plaintext if it is http.

    Attributes:
        url: ``https://host[:port]`` or ``http://host[:port]`` for S3 and web servers; ``ftp://``, ``ftps://``,
            ``ftps+implicit://`` or ``sftp://`` for servers of files. ``*.domain`` stands for every host below the
            domain. The word ``aws`` is AWS' own S3, of which addressing, checksums, tls and ssh are not read.
        region: signs requests to it; None leaves that to the other sources.
        addressing: ``path``, ``virtual`` or ``auto``.
        checksums: ``always``, ``never`` or ``auto``.
        buckets: patterns with the shell's wildcards that a request's bucket must fit; None is all. Of an http location
            the first part of the path is the bucket.
        certificates: what is trusted there beside what is trusted everywhere, and shown.
        ssh: how an SFTP server is known, beside what the caller says.
        lent: whose credential serves where a location has none; None is as everywhere.
        host: ``host:port``, lower case, the port always there: what locations are compared with.

    Raises:
        LocationError: the URL holds more than a scheme, a host and a port, or a setting is none of its words.
    """

    url: str
    region: str | None = None
    addressing: str = "auto"
    checksums: str = "auto"
    buckets: tuple[str, ...] | None = None
    certificates: Tls = field(default_factory=Tls)
    ssh: Ssh = field(default_factory=Ssh)
    lent: Lent | None = None
    host: str = field(init=False)

    def __post_init__(self) -> None:
        for name, value, words in (
            ("addressing", self.addressing, ("auto", "path", "virtual")),
            ("checksums", self.checksums, ("auto", "always", "never")),
        ):
            if value not in words:
                raise LocationError(f"{name} of an endpoint is {value!r}", hint=f"one of {', '.join(words)}")
        if self.url == AWS:
            object.__setattr__(self, "host", AWS)
            return
        plain = self.url.replace("://*.", "://", 1)
        scheme, host, port = split_server(plain)
        if plain != self.url:
            if address_of(host) is not None:
                raise LocationError(f"the endpoint {self.url} is no pattern", hint="write it as https://*.domain:port")
            host = f"*.{host}"
        if self.buckets is not None and scheme not in ("http", "https"):
            raise LocationError(f"the endpoint {self.url} has no buckets", hint="buckets are of http:// and https://")
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

    @property
    def pattern(self) -> bool:
        """Does it stand for more than one host?"""
        return self.host.startswith("*.") or self.host == AWS

    def at(self, host: str) -> Self:
        """The entry of one of the hosts that a pattern stands for."""
        return replace(self, url=f"{self.scheme}://{host}:{self.host.rpartition(':')[2]}") if self.pattern else self

    def holds(self, bucket: str) -> bool:
        """May a request reach ``bucket``?"""
        return self.buckets is None or any(fnmatch.fnmatchcase(bucket, pattern) for pattern in self.buckets)

    def applied(self, options: StoreOptions) -> StoreOptions:
        """``options`` as they hold at this endpoint: authorities and host keys add up, else the caller's come first."""
        tls, own, ssh = options.tls, self.certificates, self.ssh
        if own == _NO_TLS and ssh == _NO_SSH:
            return options
        authorities = [pem for pem in (tls.ca_pem, own.ca_pem) if pem is not None]
        shown = own if tls.client_cert is None else tls
        given = options.ssh
        logs_in = ssh if given.key is None else given
        return replace(
            options,
            tls=Tls(
                ca_pem=b"\n".join(authorities) if authorities else None,
                client_cert=shown.client_cert,
                client_key=shown.client_key,
            ),
            ssh=Ssh(
                known_hosts=given.known_hosts or ssh.known_hosts,
                fingerprints=(*given.fingerprints, *ssh.fingerprints),
                key=logs_in.key,
                key_passphrase=logs_in.key_passphrase,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """What the operator says of the tokens of one issuer.

    Attributes:
        iss: the claim of its tokens, compared as it is.
        endpoints: where the operator's own tokens and roles may serve, as :func:`matches` reads them.
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
            check_pattern(pattern)
        if self.sts_endpoint is not None:
            split_url(self.sts_endpoint)

    def serves(self, endpoint_url: str) -> bool:
        """May what the operator lends for these tokens be used at ``endpoint_url``?"""
        return matches(self.endpoints, endpoint_url)


def check_pattern(pattern: str) -> None:
    """Refuse what names no endpoint to lend to.

    Raises:
        LocationError: it is none of the forms of :func:`matches`.
    """
    if pattern == AWS:
        return
    if "://" in pattern:
        raise LocationError(
            f"{pattern.partition('://')[0]}://... names no endpoint to lend to",
            hint="write host:port, *.domain:port or aws, without a scheme",
        )
    split_url(f"https://{pattern.removeprefix('*.')}")


def matches(patterns: tuple[str, ...], endpoint_url: str) -> bool:
    """Does one of ``patterns`` name the endpoint?

    Args:
        patterns: ``host``, ``host:port`` or ``*.domain[:port]`` (443 where there is no port), or the word ``aws`` for
            AWS itself over TLS.
        endpoint_url: ``scheme://host[:port]``.
    """
    scheme, host, port = split_server(endpoint_url)
    return any(_matches(pattern, host, port, tls=scheme == "https") for pattern in patterns)


def _matches(pattern: str, host: str, port: int, *, tls: bool) -> bool:
    if pattern == AWS:
        return tls and port == 443 and aws_host(host) is not None
    _, wanted, wanted_port = split_url(f"https://{pattern.removeprefix('*.')}")
    if port != wanted_port:
        return False
    return host.endswith(f".{wanted}") if pattern.startswith("*.") else host == wanted

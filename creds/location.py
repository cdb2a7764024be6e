"""Where an object is: what a request writes in ``qualified``, ``bucket`` and ``key``, made into one place.

Parsing is pure: it resolves no name, opens nothing and reads no environment. A host comes out in one spelling only, or
is refused, so that a policy may compare it; a location prints without anything secret in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from creds.errors import LocationError

DEFAULT_REGION = "us-east-1"

MAX_CHARS = 16_384
"""Longer than a file's path with every byte escaped; what is longer is no location."""

_S3_TLS: dict[str, bool | None] = {"s3": None, "s3+https": True, "s3+http": False}
_OTHER_TLS: dict[str, bool | None] = {
    "http": False,
    "https": True,
    "ftp": False,
    "ftps": True,
    "ftps+implicit": True,
    "sftp": None,
}
USUAL_PORTS = {"http": 80, "https": 443, "ftp": 21, "ftps": 21, "ftps+implicit": 990, "sftp": 22}
_HTTP_PORTS = {True: 443, False: 80}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,8}))?")
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_UNQUOTED = re.compile(r'[!"$&->@-~]*')  # ASCII that quoting leaves as it is: nearly every key
_PRESIGNED = re.compile(
    r"[?&](?:X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|AWSAccessKeyId|Signature)=", re.IGNORECASE
)
_AWS_DOMAIN = re.compile(r"(?:.+\.)?amazonaws\.com(?:\.cn)?")
_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}"
_AWS_REGION = re.compile(_REGION)
_AWS_S3 = re.compile(
    rf"""(?:(?P<bucket>.+)\.)?
    (?:
        (?P<dotted>s3(?:-fips)?(?:\.dualstack)?\.(?P<region>{_REGION}))
      | s3-(?P<dashed>{_REGION})
      | (?P<accelerate>s3-accelerate(?:\.dualstack)?)
      | (?P<virginia>s3-external-1)
      | (?P<anywhere>s3)
    )
    \.amazonaws\.com(?P<china>\.cn)?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One object's place.

    Attributes:
        scheme: ``s3``, ``file``, ``http``, ``https``, ``ftp``, ``ftps`` (TLS asked for in the clear),
            ``ftps+implicit`` (TLS from the first byte) or ``sftp``.
        endpoint: ``host`` or ``host:port``, lower case, IPv6 in brackets, a scheme's own port left out; None is AWS
            for ``s3`` and this machine for ``file``.
        tls: True over TLS, False in plaintext, None where the operator's entry for the endpoint decides.
        bucket: empty but for ``s3``.
        key: decoded. For ``file`` the absolute path.
        region: as the name of an AWS host tells it.
        aws_host: the AWS host that was named, without its bucket: it keeps dual-stack, FIPS and acceleration.
        query: of an http location, as written; its values may be secrets and are never shown.
    """

    scheme: str
    endpoint: str | None = None
    tls: bool | None = None
    bucket: str = ""
    key: str = ""
    region: str | None = None
    aws_host: str | None = None
    query: str = field(default="", repr=False)

    @classmethod
    def parse(
        cls,
        qualified: str,
        bucket: str = "",
        key: str = "",
        *,
        default_endpoint: str | None = None,
        prefix: bool = False,
    ) -> Self | None:
        """Read a location as requests and people write it.

        For ``s3`` the first rule that matches wins:

        ==== =================================================== ======================================================
        rule ``qualified``                                       means
        ==== =================================================== ======================================================
        1    ``s3+https://host/bucket/key``, ``s3+http://...``   that endpoint, over TLS or in plaintext
        2    an S3 host of ``amazonaws.com``, ``.com.cn``        AWS: regional, dash, dual-stack, FIPS, accelerate, and
                                                                 virtual-hosted; the region is read from the name
        3    a port, an IP literal or ``localhost``              that endpoint: ``s3://host[:port]/bucket/key``
        4    ``bucket`` equals the host                          AWS: ``s3://bucket/key``
        4    ``bucket`` equals the first part of the path        that endpoint
        4    ``bucket`` equals neither                           a contradiction: LocationError
        5    no ``bucket``, a host without a dot                 AWS: ``s3://bucket/key``
        5    no ``bucket``, a dotted host, bucket and key        that endpoint
        5    no ``bucket``, a dotted host, a key alone           AWS: ``s3://bucket.with.dots/key``
        ==== =================================================== ======================================================

        Rule 2 also reads an AWS host that is written with a scheme of rule 1.

        The path is decoded once: ``%20`` is a space, ``+`` is a plus, an escape that is no UTF-8 stays as written.
        Exactly one ``/`` after the bucket is removed, so keys keep leading and double slashes. An S3 URL has no query
        and no fragment: ``?`` and ``#`` are part of the key, as StudioML's client writes keys without escaping them.
        A ``key`` field must equal the path's key, decoded or as written, and says which of the two is meant; where the
        path has no key, the field is the key.

        Of a ``file`` or other URL the path alone is the place: ``bucket`` is not read, and ``key`` must be the path or
        end it.

        Args:
            qualified: the URL; empty where only a default endpoint makes the place complete.
            bucket: the request's ``bucket`` field, or empty.
            key: the request's ``key`` field, or empty.
            default_endpoint: ``http(s)://host[:port]``, used where ``qualified`` is empty.
            prefix: many objects are meant, so the key may be empty: a whole bucket, or all of a server.

        Returns:
            The location, or None where all three are empty: there is no location.

        Raises:
            LocationError: the parts do not add up to one place. The message holds no password.
        """
        for name, text in (("qualified", qualified), ("bucket", bucket), ("key", key)):
            _check_text(name, text)
        if not qualified:
            if not bucket and not key:
                return None
            if default_endpoint is None:
                raise LocationError(
                    f"qualified is empty, and bucket {_shown(bucket)} and key {_shown(key)} do not say which server",
                    hint="write the location as s3://bucket/key or s3://host:port/bucket/key",
                )
            tls, host, port = split_url(default_endpoint)
            return cls(
                scheme="s3",
                endpoint=_join(host, port, _HTTP_PORTS[tls]),
                tls=tls,
                bucket=_checked_bucket(bucket),
                key=_checked_key(key, prefix=prefix),
            )
        match = _SCHEME.fullmatch(qualified)
        if match is None:
            raise LocationError(
                f"{_shown(qualified)} is no location: it has no scheme", hint="write s3://bucket/key or file:///path"
            )
        scheme, rest = match[1].lower(), match[2]
        if scheme in _S3_TLS:
            return cls(**_s3(scheme, _after_slashes(scheme, rest), bucket, key, prefix=prefix)._asdict())
        if scheme == "file":
            return cls(scheme="file", key=_file(rest, key, prefix=prefix))
        if scheme in _OTHER_TLS:
            endpoint, path_key, query = _other(scheme, _after_slashes(scheme, rest), key, prefix=prefix)
            return cls(scheme=scheme, endpoint=endpoint, tls=_OTHER_TLS[scheme], key=path_key, query=query)
        raise LocationError(
            f"the scheme {_shown(scheme)} is unknown",
            hint="schemes: s3, s3+https, s3+http, file, http, https, ftp, ftps, ftps+implicit, sftp; "
            "a host with a port needs s3://",
        )

    @property
    def place(self) -> tuple[object, ...]:
        """All of it but the key: equal for the keys that one store may serve."""
        return (self.scheme, self.endpoint, self.tls, self.bucket, self.region, self.aws_host, self.query)

    @property
    def on_aws(self) -> bool:
        """Is the bucket at AWS itself?"""
        return self.scheme == "s3" and self.endpoint is None

    def __str__(self) -> str:
        """The location in one canonical form, safe to print: no user, no query values, nothing that moves a cursor."""
        if self.scheme == "file":
            return f"file://{quoted(self.key)}"
        scheme = self.scheme
        if scheme == "s3" and (self.endpoint is not None or self.tls is False):
            scheme = {None: "s3", True: "s3+https", False: "s3+http"}[self.tls]
        parts = (self.endpoint or self.aws_host, quoted(self.bucket), quoted(self.key))
        text = f"{scheme}://{'/'.join(part for part in parts if part)}"
        if self.query:
            names = (quoted(pair.partition("=")[0]) for pair in self.query.split("&"))
            text += "?" + "&".join(f"{name}=***" for name in names)
        return text


class _S3(NamedTuple):
    """The fields of an S3 location, by their names there."""

    scheme: str
    endpoint: str | None
    tls: bool | None
    bucket: str
    key: str
    region: str | None = None
    aws_host: str | None = None


class AwsHost(NamedTuple):
    """What the name of an AWS S3 host tells."""

    host: str
    region: str | None
    bucket: str | None


def aws_host(host: str) -> AwsHost | None:
    """Read the name of an S3 host of AWS: regional, dash, dual-stack, FIPS, accelerate, each with a bucket or without.

    Only these names are AWS. Others under ``amazonaws.com`` are machines and gateways that anyone can rent.

    Args:
        host: lower case, without a port.

    Returns:
        The host without its bucket, in today's spelling; None where it is no S3 host of AWS.
    """
    match = _AWS_S3.fullmatch(host)
    if match is None:
        return None
    region = match["region"] or match["dashed"] or ("us-east-1" if match["virginia"] else None)
    if (match["china"] is not None) != (region or "").startswith("cn-"):
        return None
    name = match["dotted"] or match["accelerate"] or (f"s3.{region}" if region else "s3")
    return AwsHost(f"{name}.amazonaws.com{match['china'] or ''}", region, match["bucket"])


def aws_url(host: str | None, region: str) -> str:
    """The URL of AWS' S3 for a region, or of the AWS host that was named.

    Args:
        host: a location's ``aws_host``. The old global name tells no region, so it gives way to the regional one.
        region: an AWS region's name.
    """
    if host is not None and host != "s3.amazonaws.com":
        return f"https://{host}"
    return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def is_aws_region(region: str) -> bool:
    """Has ``region`` the form of an AWS region's name? Only then may it become part of a host name."""
    return _AWS_REGION.fullmatch(region) is not None


def split_url(url: str) -> tuple[bool, str, int]:
    """Read an endpoint as an operator names it: ``http(s)://host[:port]``.

    Returns:
        Over TLS or not, the host in its one spelling, and the port, the scheme's own made explicit.

    Raises:
        LocationError: it is no such URL, or holds more than that: a user, a path, a query.
    """
    scheme, host, port = split_server(url, ("http", "https"))
    return scheme == "https", host, port


def split_server(url: str, schemes: Collection[str] = frozenset(USUAL_PORTS)) -> tuple[str, str, int]:
    """Read a server as an operator names it: ``scheme://host[:port]``.

    Returns:
        The scheme, the host in its one spelling, and the port, the scheme's own made explicit.

    Raises:
        LocationError: it is no such URL of one of ``schemes``, or holds more than that: a user, a path, a query.
    """
    _check_text("endpoint", url)
    match = _SCHEME.fullmatch(url)
    hint = "write it as https://host, https://host:port or http://host:port"
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in schemes or not match[2].startswith("//"):
        raise LocationError(f"the endpoint {_shown(url)} is no http:// or https:// URL", hint=hint)
    authority = match[2][2:].removesuffix("/")
    if "@" in authority:
        raise LocationError("an endpoint's URL holds a user or password", hint="credentials are given apart; " + hint)
    if re.search(r"[/?#]", authority):
        raise LocationError(f"the endpoint {_shown(url)} holds more than a host and a port", hint=hint)
    host, port = _split_authority(authority)
    return scheme, _checked_host(host), port or USUAL_PORTS[scheme]


def split_host(endpoint: str) -> tuple[str, int | None]:
    """Take a location's ``endpoint`` apart: the host, brackets kept, and the port if there is one."""
    return _split_authority(endpoint)


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that ``host`` is the literal of; None where it is a name."""
    try:
        if host.startswith("["):
            return ipaddress.IPv6Address(host[1:-1])
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None


def quoted(text: str) -> str:
    """``text`` as part of a URL for people: letters of all scripts stay, what is invisible or has a meaning does not.

    Escaped are ``%``, ``?``, ``#``, spaces and everything unprintable: control characters, and the marks that turn the
    direction of writing.
    """
    if _UNQUOTED.fullmatch(text):
        return text
    return "".join(char if char.isprintable() and char not in "%?# " else _escape(char) for char in text)


def _escape(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


def _s3(scheme: str, rest: str, bucket: str, key: str, *, prefix: bool) -> _S3:
    """Rules 1 to 5 of :meth:`Location.parse`."""
    if _PRESIGNED.search(rest):
        raise LocationError("an s3 location holds a signature", hint="a presigned URL is an https:// location")
    tls = _S3_TLS[scheme]
    authority, _, path = rest.partition("/")
    name, port = _split_authority(authority)
    host = name.lower().removesuffix(".")
    first, _, behind = path.partition("/")

    at_endpoint = scheme != "s3" or port is not None or host == "localhost" or address_of(host) is not None
    if port in (None, 443 if tls is not False else 80) and _AWS_DOMAIN.fullmatch(host):
        aws = aws_host(host)
        if aws is not None:
            if aws.bucket is not None:
                if bucket not in ("", aws.bucket):
                    raise _contradiction("bucket", aws.bucket, bucket)
                found, raw_key = aws.bucket, path
            else:
                found, raw_key = _bucket_of(first, bucket), behind
            return _S3(
                "s3",
                None,
                tls is not False,
                _checked_bucket(found),
                _key_of(raw_key, key, prefix=prefix),
                aws.region,
                aws.host,
            )
        if not at_endpoint:
            raise LocationError(
                f"{_shown(host)} is no S3 endpoint of AWS that this toolkit knows",
                hint="write s3://bucket/key, or s3+https://host/bucket/key for a host the policy names",
            )

    if not at_endpoint:
        if bucket:
            at_endpoint = bucket != name
            if at_endpoint and bucket not in (first, decoded(first)):
                raise LocationError(
                    f"the bucket field says {_shown(bucket)}, the location says neither host {_shown(name)} nor "
                    f"bucket {_shown(first)}",
                    hint="make both say the same; s3+https://host/bucket/key is never ambiguous",
                )
        else:
            at_endpoint = "." in host and bool(first) and bool(behind)
    if not at_endpoint:
        return _S3("s3", None, True, _checked_bucket(name), _key_of(path, key, prefix=prefix))
    usual = None if tls is None else _HTTP_PORTS[tls]
    return _S3(
        "s3",
        _join(_checked_host(name), port, usual),
        tls,
        _checked_bucket(_bucket_of(first, bucket)),
        _key_of(behind, key, prefix=prefix),
    )


def _other(scheme: str, rest: str, key: str, *, prefix: bool) -> tuple[str, str, str]:
    """The endpoint, the path's key and the query of a URL that is neither s3 nor file."""
    end = re.search(r"[/?#]", rest)
    cut = end.start() if end else len(rest)
    name, port = _split_authority(rest[:cut])
    host = _checked_host(name)
    path, query = rest[cut:], ""
    if scheme in ("http", "https"):
        if "#" in path:
            raise LocationError(f"the {scheme} location holds a fragment", hint="write # in a path as %23")
        path, _, query = path.partition("?")
    raw_key = path.removeprefix("/")
    return _join(host, port, USUAL_PORTS[scheme]), _path_key(raw_key, decoded(raw_key), key, prefix=prefix), query


def _file(rest: str, key: str, *, prefix: bool) -> str:
    """The absolute path that a file URL names."""
    path = rest
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        path = slash + path
        if authority.lower() not in ("", "localhost"):
            raise LocationError(
                f"a file location names the host {_shown(authority)}", hint="write file:///path, with three slashes"
            )
    if not path.startswith("/"):
        raise LocationError("a file location is not absolute", hint="write file:///path, with three slashes")
    plain = decoded(path, files=True)
    if ".." in plain.split("/"):
        raise LocationError(f"the path {_shown(plain)} goes up by '..'", hint="write the path without it")
    if not plain.strip("/") and not prefix:
        raise LocationError("the file location names no file", hint="write file:///path")
    return _path_key(path, plain, key, prefix=prefix)


def _path_key(raw: str, plain: str, key: str, *, prefix: bool) -> str:
    """The key of a URL whose path is the place, if the ``key`` field agrees with it or with its end."""
    for path in (plain, raw):
        if not key or path.removeprefix("/") == key.removeprefix("/") or path.endswith("/" + key):
            return _checked_key(path, prefix=prefix)
    raise _contradiction("key", plain, key)


def _bucket_of(first: str, bucket: str) -> str:
    """The bucket, from the first part of the path and the ``bucket`` field."""
    if bucket and first and bucket not in (first, decoded(first)):
        raise _contradiction("bucket", first, bucket)
    return bucket or decoded(first)


def _key_of(raw: str, key: str, *, prefix: bool) -> str:
    """The key, from the rest of the path and the ``key`` field."""
    plain = decoded(raw)
    if key and raw and key not in (plain, raw):
        raise _contradiction("key", plain, key)
    return _checked_key(key or plain, prefix=prefix)


def _contradiction(what: str, location: str, given: str) -> LocationError:
    return LocationError(
        f"the location says {what} {_shown(location)}, the {what} field says {_shown(given)}",
        hint=f"make both say the same, or leave the {what} field empty",
    )


def decoded(text: str, *, files: bool = False) -> str:
    """Undo percent-encoding, once.

    Args:
        text: part of a URL's path.
        files: keep bytes that are no UTF-8 as Python keeps them in file names; else their escapes stay as written.
    """

    def decode(match: re.Match[str]) -> str:
        raw = bytes.fromhex(match[0].replace("%", ""))
        if files:
            return raw.decode("utf-8", "surrogateescape")
        done, parts = 0, []
        while done < len(raw):
            try:
                parts.append(raw[done:].decode())
                break
            except UnicodeDecodeError as error:
                bad, after = done + error.start, done + error.end
                parts += [raw[done:bad].decode(), match[0][3 * bad : 3 * after]]
                done = after
        return "".join(parts)

    return _ESCAPES.sub(decode, text)


def _after_slashes(scheme: str, rest: str) -> str:
    if not rest.startswith("//"):
        raise LocationError(f"the {scheme} location lacks its slashes", hint=f"write {scheme}://...")
    rest = rest[2:]
    if "@" in rest and "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise LocationError(
            f"the {scheme} location holds a user or password",
            hint="give them as credentials.plain: in the request, or in a file for --credentials",
        )
    return rest


def _split_authority(authority: str) -> tuple[str, int | None]:
    """The host as written and the port of ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
    match = _AUTHORITY.fullmatch(authority)
    port = int(match[2]) if match is not None and match[2] else None
    if match is None or (port is not None and not 1 <= port <= 65535):
        raise LocationError(
            "the part between // and / is no host[:port] with a port from 1 to 65535",
            hint="write an IPv6 address in brackets: [::1]:9000",
        )
    return match[1], port


def _join(host: str, port: int | None, usual: int | None) -> str:
    return host if port is None or port == usual else f"{host}:{port}"


def _checked_host(name: str) -> str:
    """``name`` in the one spelling that a policy compares.

    Names that a resolver would read as an address in disguise (``0x7f.1``, ``2130706433``, ``010.0.0.1``) are refused,
    and so are letters beyond ASCII, which a resolver may fold into others.
    """
    host = name.lower().removesuffix(".")
    if host.startswith("["):
        address = address_of(host)
        if address is None or "%" in host:
            raise LocationError(f"{_shown(name)} is no IPv6 address", hint="write it as [::1], without a zone")
        return f"[{address.compressed}]"
    if not host:
        raise LocationError("the location has no host", hint="write s3://host:port/bucket/key")
    if not host.isascii():
        raise LocationError(f"the host {_shown(name)} is not in ASCII", hint="write it in its xn-- form")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise LocationError(f"{_shown(name)} is no host name", hint="letters, digits, '-', '_' and single dots")
    if _NUMBER_LABEL.fullmatch(labels[-1]) and address_of(host) is None:
        raise LocationError(
            f"the host {_shown(name)} is a number that is no plain address",
            hint="write the address as four decimal numbers, such as 127.0.0.1",
        )
    return host


def _checked_bucket(bucket: str) -> str:
    if not bucket:
        raise LocationError("the bucket is missing", hint="write s3://bucket/key or s3://host:port/bucket/key")
    if not _BUCKET.fullmatch(bucket) or bucket in (".", ".."):
        raise LocationError(
            f"{_shown(bucket)} is no bucket name", hint="1 to 255 letters, digits, '.', '-' and '_', not '.' or '..'"
        )
    return bucket


def _checked_key(key: str, *, prefix: bool) -> str:
    if not key and not prefix:
        raise LocationError("the key is missing", hint="the location ends where the object's name should be")
    if "\0" in key:
        raise LocationError("the key holds a NUL character")
    return key


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_CHARS:
        raise LocationError(f"{name} is {len(text)} characters long; no location is longer than {MAX_CHARS}")
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise LocationError(f"{name} is not Unicode text")


def _shown(text: str) -> str:
    """``text`` for a message: short, escaped, and left out where it may hold a password or a signature."""
    if "@" in text or _PRESIGNED.search(text):
        return "(not shown: it may hold a secret)"
    return repr(text if len(text) <= 120 else text[:117] + "...")

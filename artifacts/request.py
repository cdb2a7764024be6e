"""A StudioML experiment request: the document that names artifacts and carries credentials.

The models below are the wire form's one definition: ``artifacts.gojson`` reads field names, types and order from
them, for both of its parsers and for its writer. A field's wire name is its alias, else its own name; an optional
scalar is one the reference does not have, written only when it is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from artifacts.errors import RequestError
from artifacts.gojson import OMIT_EMPTY, Codec
from creds.models import AWSCredential, Credentials, JWTCredential, PlainCredential
from creds.secret import Secret

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Uint64 = Annotated[int, Field(ge=0, lt=2**64)]

_NO_CREDENTIALS: Final = Credentials.model_construct()  # a call would build validators that reading does without


class _Document(BaseModel):  # noqa: PLW1641  mutable, so not hashable
    """Mutable, built by attribute or wire name, refuses names it does not know, prints no value it cannot vouch for."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    def __eq__(self, other: object) -> bool:
        # As pydantic has it, but that no unknown fields and none at all are the same.
        if not isinstance(other, BaseModel) or type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__ and (self.__pydantic_extra__ or {}) == (other.__pydantic_extra__ or {})

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        # Anything may be in an untyped field and in the values of an environment: keys, tokens, whole sessions.
        shown: list[tuple[str | None, Any]] = []
        for name, field in type(self).model_fields.items():
            value = self.__dict__.get(name)
            if name == "env" and isinstance(value, dict):
                shown.append((name, sorted(map(str, value))))
            elif field.annotation is not Any:
                shown.append((name, value))
        return shown


class Database(_Document):
    """Where the client keeps its experiments; carried along, not used here."""

    api_key: Annotated[Secret, Field(alias="apiKey")] = Secret("")
    auth_domain: Annotated[str, Field(alias="authDomain")] = ""
    database_url: Annotated[str, Field(alias="databaseURL")] = ""
    messaging_sender_id: Annotated[Int64, Field(alias="messagingSenderId")] = 0
    project_id: Annotated[str, Field(alias="projectId")] = ""
    storage_bucket: Annotated[str, Field(alias="storageBucket")] = ""
    type: str = ""
    use_email_auth: bool = False
    credentials: Credentials = _NO_CREDENTIALS


class RunnerCustom(_Document):
    """Settings of the runner that the reference knows."""

    slack_destination: str = ""


class Config(_Document):
    """How the client was set up when it sent the experiment.

    Attributes:
        env: the experiment's environment; None when the document has none.
        pip: packages the experiment needs; None when the document has none.
    """

    cloud: Any = None
    database: Database = Field(default_factory=Database)
    save_workspace_frequency: Annotated[str, Field(alias="saveWorkspaceFrequency")] = ""
    experiment_lifetime: Annotated[str, Field(alias="experimentLifetime")] = ""
    verbose: str = ""
    env: dict[str, str] | None = None
    pip: list[str] | None = None
    runner: RunnerCustom = Field(default_factory=RunnerCustom)


class Info(_Document):
    """Free-form notes of the client; the reference reads no field of it."""


class Resource(_Document):
    """What an experiment needs, or what a machine has.

    Attributes:
        cpus, gpus, gpu_count: counts.
        hdd, ram, gpu_mem: sizes as :func:`parse_size` reads them; empty is none.
    """

    cpus: Uint64 = 0
    gpus: Uint64 = 0
    hdd: str = ""
    ram: str = ""
    gpu_mem: Annotated[str, Field(alias="gpuMem")] = ""
    gpu_count: Annotated[Uint64, Field(alias="gpuCount")] = 0

    def fits(self, available: Resource) -> bool:
        """Is every need of this resource met by ``available``?

        Raises:
            RequestError: a size of either cannot be read; names the field.
        """
        needs, has = self._amounts("needed"), available._amounts("available")
        return all(need <= had for need, had in zip(needs, has, strict=True))

    def clone(self) -> Resource:
        """A copy that shares nothing with this one."""
        return self.model_copy(deep=True)

    def _amounts(self, whose: str) -> tuple[int, ...]:
        problems = []
        sizes = []
        for wire, text in (("hdd", self.hdd), ("ram", self.ram), ("gpuMem", self.gpu_mem)):
            try:
                sizes.append(parse_size(text))
            except RequestError as error:
                problems += [f"{whose}.{wire}: {problem}" for problem in error.problems]
        if problems:
            raise RequestError(problems, hint='write sizes as "6gb", "2GiB" or "512 MB"')
        return (self.cpus, self.gpus, self.gpu_count, *sizes)


class Artifact(_Document):
    """One artifact: where it is, with which credential, and what to do with it.

    Attributes:
        bucket, key, qualified: the location; see ``creds.location``.
        hash: a digest the client may have written; not written when empty.
        local: the path on the client's machine; not written when empty.
        mutable: it is uploaded again when it changed.
        unpack: it is an archive to unpack.
        save_frequency: seconds between uploads while the experiment runs; None when the document does not say.
        url: the location of an http artifact as the client sends it, used when ``qualified`` is empty; None when the
            document has none.
    """

    bucket: str = ""
    key: str = ""
    hash: Annotated[str, OMIT_EMPTY] = ""
    local: Annotated[str, OMIT_EMPTY] = ""
    mutable: bool = False
    unpack: bool = False
    qualified: str = ""
    credentials: Credentials = _NO_CREDENTIALS
    save_frequency: Annotated[float | None, Field(alias="saveFrequency")] = None
    url: str | None = None

    def clone(self) -> Artifact:
        """A copy that shares nothing with this one; secrets keep their value."""
        return self.model_copy(deep=True)


class Experiment(_Document):
    """What to run, on which artifacts."""

    args: list[str] | None = None
    artifacts: dict[str, Artifact] | None = None
    filename: str = ""
    git: Any = None
    info: Info = Field(default_factory=Info)
    key: str = ""
    metric: Any = None
    project: Any = None
    pythonenv: list[str] | None = None
    pythonver: str = ""
    resources_needed: Resource = Field(default_factory=Resource)
    status: str = ""
    time_added: float = 0.0
    max_duration: str = ""
    time_finished: Any = None
    time_last_checkpoint: Any = None
    time_started: Any = None


class Request(_Document):
    """The whole document."""

    config: Config = Field(default_factory=Config)
    experiment: Experiment = Field(default_factory=Experiment)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was probably meant otherwise: one line for each unread name that looks like a known one; no values."""
        return self._warnings

    @classmethod
    def load(cls, path: str | Path, *, keep_unknown: bool = False) -> Request:
        """Read the document in the file ``path``; arguments and errors as :func:`loads`.

        Raises:
            RequestError: the file cannot be read, too; the OSError is its cause.
        """
        try:
            document = Path(path).read_bytes()
        except OSError as error:
            raise RequestError(f"{path}: {error.strerror or 'cannot be read'}") from error
        return loads(document, keep_unknown=keep_unknown)


# What people write for what is read, by the struct it is in; compared without case, "-" and "_".
_MEANT: Final[Mapping[type[BaseModel], Mapping[str, str]]] = {
    AWSCredential: {
        "secretkey": "secret_access_key",
        "secret": "secret_access_key",
        "password": "secret_access_key",
        "awssecretaccesskey": "secret_access_key",
        "accesskeyid": "access_key",
        "awsaccesskeyid": "access_key",
        "keyid": "access_key",
        "user": "access_key",
        "token": "session_token",
        "securitytoken": "session_token",
        "awssessiontoken": "session_token",
        "defaultregion": "region",
        "awsdefaultregion": "region",
        "regionname": "region",
        "endpointregion": "region",
        "profilename": "profile",
    },
    PlainCredential: {"username": "user", "login": "user", "pass": "password", "passwd": "password", "pwd": "password"},
    JWTCredential: {"jwt": "token", "accesstoken": "token", "bearer": "token"},
    Credentials: {"basic": "plain", "userpass": "plain", "bearer": "jwt", "token": "jwt", "s3": "aws", "amazon": "aws"},
    Artifact: {
        "uri": "url",
        "location": "qualified",
        "path": "local",
        "extract": "unpack",
        "credential": "credentials",
    },
    Resource: {"memory": "ram", "mem": "ram", "disk": "hdd", "cpu": "cpus", "gpu": "gpus", "gpumemory": "gpuMem"},
    Config: {"environment": "env", "envs": "env", "lifetime": "experimentLifetime"},
    Experiment: {"resources": "resources_needed", "pythonversion": "pythonver", "arguments": "args"},
}


@cache
def _codec() -> Codec[Request]:
    # Made when it is first asked for: whoever reads no request does not wait for it.
    return Codec(Request, meant=_MEANT)


def loads(data: bytes | str, *, keep_unknown: bool = False) -> Request:
    """Read a request document exactly as the reference, Go's ``encoding/json``, reads it.

    Args:
        data: the document; bytes are UTF-8, each invalid byte in a string is read as U+FFFD.
        keep_unknown: keep fields that no struct knows, so that :func:`dumps` writes them again.

    Raises:
        RequestError: not JSON (names line and column), or fields that do not fit (names every path); never a value.
    """
    request, warnings = _codec().decode(data, keep_unknown=keep_unknown)
    if warnings:
        request._warnings = warnings  # noqa: SLF001  this module is what fills it
    return request


def dumps(request: Request) -> bytes:
    """Write ``request`` byte for byte as the reference writes it. The result holds its secrets.

    Raises:
        RequestError: attributes were set to what the wire cannot hold, or a secret came out of a pickle, which drops
            values; names every path.
    """
    return _codec().encode(request)


@cache
def _credentials_codec() -> Codec[Credentials]:
    return Codec(Credentials, meant=_MEANT)


def loads_credentials(data: bytes | str) -> Credentials:
    """Read a ``credentials`` object that stands alone, as strictly as one in a request.

    Raises:
        RequestError: not JSON, fields that do not fit, a near miss of one (nobody else will read it), or no credential.
    """
    credentials, warnings = _credentials_codec().decode(data)
    if warnings:
        raise RequestError(warnings)
    if all(given is None for given in (credentials.aws, credentials.plain, credentials.jwt)):
        # Another document, such as a whole request: to go on as nobody would be told of as a permission that lacks.
        raise RequestError("there is no credential in it", hint="it holds one of aws, plain and jwt")
    return credentials


_UNITS: Final = {
    "": 1,
    "b": 1,
    **{prefix + tail: 1000**power for power, prefix in enumerate("kmgtpe", 1) for tail in ("", "b")},
    **{prefix + tail: 1024**power for power, prefix in enumerate("kmgtpe", 1) for tail in ("i", "ib")},
}
_SIZE: Final = re.compile(r"([0-9.,]*)(.*)", re.DOTALL)
_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def parse_size(text: str) -> int:
    """Read a size such as ``6gb``, ``2GiB``, ``512 MB`` or ``1,024`` by the rules of Go's ``humanize.ParseBytes``.

    Units without an ``i`` are powers of 1000, those with one of 1024; case does not matter, commas are dropped, a
    bare number counts bytes, a fraction of a byte is cut off. The empty string is 0.

    Returns:
        Bytes, below 2**64.

    Raises:
        RequestError: not a size; does not quote the text.
    """
    if not text:
        return 0
    match = _SIZE.fullmatch(text)
    assert match is not None
    digits = match[1].replace(",", "")
    unit = _UNITS.get(match[2].strip(_SPACES).lower())
    if unit is None or not digits.strip(".") or digits.count(".") > 1:
        raise RequestError("not a size")
    amount = float(digits) * float(unit)
    if amount >= 2**64:
        raise RequestError("a size of 2**64 bytes or more")
    return int(amount)

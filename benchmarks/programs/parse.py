"""Reads, or reads and writes, all recorded valid documents of more than 1,500 bytes, ROUNDS times.

usage: parse.py loads|dumps|pydantic ROUNDS

Those documents are full of what slows a parser down: null, unknown fields, names in other cases, escapes, odd numbers.
"pydantic" is its own strict parse into models of the same fields and types: secrets are secrets, integers have their
bounds, the fields beyond the reference are there. Everything may be null, since it may be in these documents; unknown
fields are ignored and absent structs are None, which costs the least. Names in other cases and hints are left out.
"""

# ruff: noqa: N815  the fields have the wire's names

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, SecretStr

Text = str | None
Hidden = SecretStr | None
Count = Annotated[int, Field(ge=0, lt=2**64)] | None


class Plain(BaseModel):
    user: Text = ""
    password: Hidden = SecretStr("")


class Jwt(BaseModel):
    token: Hidden = SecretStr("")


class Aws(BaseModel):
    access_key: Text = ""
    secret_access_key: Hidden = SecretStr("")
    session_token: Hidden = None
    region: Text = None
    profile: Text = None


class Kinds(BaseModel):
    plain: Plain | None = None
    jwt: Jwt | None = None
    aws: Aws | None = None


class Base(BaseModel):
    apiKey: Hidden = SecretStr("")
    authDomain: Text = ""
    databaseURL: Text = ""
    messagingSenderId: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = 0
    projectId: Text = ""
    storageBucket: Text = ""
    type: Text = ""
    use_email_auth: bool | None = False
    credentials: Kinds | None = None


class Runner(BaseModel):
    slack_destination: Text = ""


class Settings(BaseModel):
    cloud: Any = None
    database: Base | None = None
    saveWorkspaceFrequency: Text = ""
    experimentLifetime: Text = ""
    verbose: Text = ""
    env: dict[str, Text] | None = None
    pip: list[Text] | None = None
    runner: Runner | None = None


class Nothing(BaseModel):
    pass


class Needs(BaseModel):
    cpus: Count = 0
    gpus: Count = 0
    hdd: Text = ""
    ram: Text = ""
    gpuMem: Text = ""
    gpuCount: Count = 0


class Thing(BaseModel):
    bucket: Text = ""
    key: Text = ""
    hash: Text = ""
    local: Text = ""
    mutable: bool | None = False
    unpack: bool | None = False
    qualified: Text = ""
    credentials: Kinds | None = None
    saveFrequency: float | None = None
    url: Text = None


class Work(BaseModel):
    args: list[Text] | None = None
    artifacts: dict[str, Thing] | None = None
    filename: Text = ""
    git: Any = None
    info: Nothing | None = None
    key: Text = ""
    metric: Any = None
    project: Any = None
    pythonenv: list[Text] | None = None
    pythonver: Text = ""
    resources_needed: Needs | None = None
    status: Text = ""
    time_added: float | None = 0
    max_duration: Text = ""
    time_finished: Any = None
    time_last_checkpoint: Any = None
    time_started: Any = None


class Whole(BaseModel):
    """A whole request, as the documentation of this file has it."""

    config: Settings | None = None
    experiment: Work | None = None


def main():
    work, rounds = sys.argv[1], int(sys.argv[2])
    path = Path(__file__).parent.parent.parent / "tests/vectors/request_vectors.jsonl"
    vectors = [json.loads(line) for line in path.read_bytes().splitlines()]
    documents = [v["in"].encode() for v in vectors if v["ok"] and "in" in v and len(v["in"].encode()) > 1500]
    if work == "pydantic":
        read = lambda document: Whole.model_validate_json(document, strict=True)
    else:
        from artifacts.request import dumps, loads

        read = loads if work == "loads" else lambda document: dumps(loads(document))
    for _ in range(rounds):
        for document in documents:
            read(document)


if __name__ == "__main__":
    main()

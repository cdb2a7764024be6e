"""How long reading and writing a request takes, beside pydantic's own strict parse of the same document.

Prints medians over the recorded valid documents of more than 1,500 bytes. Those are full of what slows a parser down:
null, unknown fields, names in other cases, escapes, odd numbers.

    python benchmarks/request_parsing.py
"""

# ruff: noqa: N815  the fields have the wire's names

import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from artifacts.request import dumps, loads

Text = str | None
Count = int | None


class Plain(BaseModel):
    user: Text = ""
    password: SecretStr | None = None


class Jwt(BaseModel):
    token: SecretStr | None = None


class Aws(BaseModel):
    access_key: Text = ""
    secret_access_key: SecretStr | None = None


class Kinds(BaseModel):
    plain: Plain | None = None
    jwt: Jwt | None = None
    aws: Aws | None = None


class Base(BaseModel):
    apiKey: Text = ""
    authDomain: Text = ""
    databaseURL: Text = ""
    messagingSenderId: Count = 0
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
    """The reference's fields, all of them nullable: what a strict parse of these documents takes at the least."""

    config: Settings | None = None
    experiment: Work | None = None


def microseconds(work, documents, rounds=60):
    """The median over rounds of the time a document takes, garbage collection on, as in any program."""
    times = []
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        for document in documents:
            work(document)
        times.append((time.perf_counter() - start) / len(documents))
    return statistics.median(times) * 1e6


def main():
    path = Path(__file__).parent.parent / "tests/vectors/request_vectors.jsonl"
    vectors = [json.loads(line) for line in path.read_bytes().splitlines()]
    documents = [v["in"].encode() for v in vectors if v["ok"] and "in" in v and len(v["in"].encode()) > 1500]
    requests = [loads(document) for document in documents]
    strict = microseconds(lambda document: Whole.model_validate_json(document, strict=True), documents)
    reading = microseconds(loads, documents)
    writing = microseconds(dumps, requests)
    both = microseconds(lambda document: dumps(loads(document)), documents)
    print(f"{len(documents)} documents of {sum(map(len, documents)) // len(documents)} bytes on average")
    for name, taken in (("pydantic, strict", strict), ("loads", reading), ("dumps", writing), ("loads + dumps", both)):
        print(f"{name:18s} {taken:7.1f} us  {taken / strict:5.2f}")


if __name__ == "__main__":
    main()

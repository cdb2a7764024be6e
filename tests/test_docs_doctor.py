"""The outputs in docs/doctor.md: the same commands give the same lines today."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import jwt
import pytest
import servers
import trustme
from commands import WRONG_SECRET, Bench, credentials, run
from tlsfront import Authority, tls_front

from creds.doctor import NAMES

PAGE = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text()
SHOWN = re.findall(r"```text\n\$ artifacts doctor (.*?)\n(.*?)```", PAGE, re.DOTALL)


def shape(text: str) -> list[str]:
    """The lines without what differs from run to run: ports, times, durations."""
    for pattern, word in (
        (r"127\.0\.0\.1:\d+", "HOST"),
        (r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME"),
        (r"\d+ ms", "N ms"),
        (r"within \d+ s", "within N s"),
    ):
        text = re.sub(pattern, word, text)
    return text.splitlines()


@pytest.fixture
def bench(seaweed, tmp_path) -> Bench:
    """A bucket and keys, as the page has them."""
    existing = {found["Name"] for found in seaweed.client().list_buckets()["Buckets"]}
    if "data" not in existing:
        seaweed.make_bucket("data")
    bench = Bench(seaweed, "data", tmp_path)
    bench.put("sets/points.tar.gz", b"1")
    (tmp_path / "keys.json").write_text(json.dumps(credentials(servers.ADMIN)))
    return bench


def wrong_secret(bench: Bench):
    keys = {"aws": credentials(servers.ADMIN)["aws"] | {"secret_access_key": WRONG_SECRET}}
    (bench.folder / "keys.json").write_text(json.dumps(keys))
    return run("doctor", bench.place("sets/points.tar.gz"), "--credentials", "keys.json", cwd=bench.folder)


def private_authority(bench: Bench):
    authority = Authority(bench.folder, trustme.CA(organization_name="Example", organization_unit_name="Example CA"))
    with tls_front(bench.server.address, authority) as front:
        url = f"s3+https://127.0.0.1:{front.port}/data/sets/points.tar.gz"
        return run("doctor", url, "--credentials", "keys.json", cwd=bench.folder)


def expired_token(bench: Bench):
    claims = {
        "iss": "https://gitlab.corp",
        "sub": "project_path:ml/train:ref:main",
        "aud": "minio",
        "exp": int(time.time()) - 3600,
    }
    token = jwt.encode(claims, "k" * 32, algorithm="HS256")
    place = bench.place("sets/points.tar.gz")
    artifact = {"qualified": place, "unpack": True, "credentials": {"jwt": {"token": token}}}
    (bench.folder / "request.json").write_text(json.dumps({"experiment": {"artifacts": {"dataset": artifact}}}))
    return run("doctor", "request.json", "--endpoint", bench.url, cwd=bench.folder)


@pytest.mark.parametrize(
    ("number", "make", "code"), [(0, wrong_secret, 5), (1, private_authority, 2), (2, expired_token, 5)]
)
def test_outputs(bench, number, make, code):
    """Line for line, but for ports and times."""
    done = make(bench)
    assert done.code == code
    assert shape(done.out) == shape(SHOWN[number][1])


def test_commands():
    """Three outputs, each by the command that its test runs."""
    assert [shape(command)[0] for command, _ in SHOWN] == [
        "s3://HOST/data/sets/points.tar.gz --credentials keys.json",
        "s3+https://HOST/data/sets/points.tar.gz --credentials keys.json",
        "request.json --endpoint http://HOST",
    ]


def test_every_step_is_explained():
    """The table has the steps, in their order."""
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)) == NAMES

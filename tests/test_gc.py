"""Uploads that nobody finished: found, told and aborted, by the command and from Python."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from commands import SUMMARY_KEYS, Bench, credentials, run

import artifacts
from artifacts import Access
from creds.errors import LocationError, NotSupported
from creds.models import AWSCredential, Credentials


@pytest.fixture
def bench(seaweed, bucket, tmp_path):
    (tmp_path / "keys.json").write_text(json.dumps(credentials(seaweed.admin)))
    return Bench(seaweed, bucket, tmp_path)


@pytest.fixture
def access(seaweed):
    keys = AWSCredential(access_key=seaweed.admin.access_key, secret_access_key=seaweed.admin.secret_key)
    return Access(credentials=Credentials(aws=keys))


def begin(bench, *keys):
    for key in keys:
        bench.client.create_multipart_upload(Bucket=bench.bucket, Key=key)


def left(bench):
    found = bench.client.list_multipart_uploads(Bucket=bench.bucket).get("Uploads", [])
    return sorted(upload["Key"] for upload in found)


def gc(bench, url, *more):
    return run("gc", url, *more, "--credentials", bench.folder / "keys.json")


def test_a_young_upload_is_kept(bench):
    """Two days is the least age unless another is said; a person is told how many there are."""
    begin(bench, "a.tar")
    told = gc(bench, bench.place(""))
    assert (told.code, told.out, told.said) == (0, "", ["1 unfinished uploads: 1 kept: younger"])
    assert gc(bench, bench.place(""), "--older-than", "1d1h").out == ""
    assert gc(bench, bench.place(""), "-v").out.endswith("\ta.tar\tkept: younger\n")
    assert left(bench) == ["a.tar"]


def test_a_dry_run_tells_and_aborts_nothing(bench):
    begin(bench, "runs/a b.tar")
    told = gc(bench, bench.place(""), "--older-than", "1us", "--dry-run")
    started, age, key, became = told.out.rstrip("\n").split("\t")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(started)) < timedelta(minutes=5)
    assert (age.count(":"), key, became) == (2, "runs/a b.tar", "would be aborted")
    assert told.said == ["1 unfinished uploads: 1 would be aborted"]
    assert left(bench) == ["runs/a b.tar"]


def test_a_prefix_is_all_below_it_and_another_url_is_one_object(bench):
    """What only begins alike is not meant."""
    begin(bench, "runs/a.tar", "runs/a.tar.gz", "runs2/b.tar", "c.tar")
    assert gc(bench, bench.place("runs/a.tar"), "--older-than", "1us").out.count("aborted") == 1
    assert left(bench) == ["c.tar", "runs/a.tar.gz", "runs2/b.tar"]
    assert gc(bench, bench.place("runs/"), "--older-than", "1us").code == 0
    assert left(bench) == ["c.tar", "runs2/b.tar"]
    assert gc(bench, bench.place(""), "--older-than", "1us").said == ["2 unfinished uploads: 2 aborted"]
    assert left(bench) == []


def test_objects_are_not_touched(bench):
    bench.put("a.tar", b"whole")
    begin(bench, "a.tar")
    assert gc(bench, bench.place("a.tar"), "--older-than", "1us").code == 0
    assert (left(bench), bench.read("a.tar")) == ([], b"whole")


def test_json_has_one_object_an_upload(bench):
    """Whatever became of it, and a summary at the end."""
    begin(bench, "a.tar")
    aborted = gc(bench, bench.place(""), "--json", "--older-than", "1us").lines
    assert tuple(aborted[-1]) == SUMMARY_KEYS
    assert (aborted[-1]["op"], aborted[-1]["exit"]) == ("gc", 0)
    (line,) = aborted[:-1]
    assert {name: line[name] for name in ("v", "type", "key", "status", "location")} == {
        "v": 1,
        "type": "upload",
        "key": "a.tar",
        "status": "aborted",
        "location": bench.place("a.tar"),
    }
    assert line["upload_id"]
    assert 0 <= line["age_seconds"] < 300


@pytest.mark.parametrize("age", ["2", "0d", "-1d", "d", "1.5d", "soon", "1d2"])
def test_ages(bench, age):
    """Seconds or a duration; what is none, or nothing, is a usage error."""
    told = gc(bench, bench.place(""), "--older-than", age)
    assert told.code == (0 if age in ("2", "1d2") else 2)
    assert (told.code == 0) != ("expected seconds, or a duration" in told.err)


def test_other_stores_have_none(bench):
    """A folder is told to have no such thing, in plain words."""
    told = run("gc", bench.folder.as_uri() + "/")
    assert (told.code, "only S3 servers keep unfinished uploads" in told.err) == (2, True)


def test_a_missing_bucket_is_no_empty_one(bench):
    assert gc(bench, bench.url.replace("http", "s3+http") + "/no-such-bucket/").code == 4


def test_from_python(bench, access):
    """unfinished lists, gc aborts what is old enough and says of each what it did."""
    begin(bench, "x/a.tar", "x/b.tar")
    url = bench.place("x/")
    assert sorted(upload.key for upload in artifacts.unfinished(url, access=access)) == ["x/a.tar", "x/b.tar"]
    assert [upload.status for upload in artifacts.gc(url, access=access)] == ["kept", "kept"]
    planned = artifacts.gc(url, older_than_seconds=0, dry_run=True, access=access)
    assert [upload.status for upload in planned] == ["planned", "planned"]
    assert [upload.status for upload in artifacts.gc(url, older_than_seconds=0, access=access)] == ["aborted"] * 2
    assert list(artifacts.unfinished(url, access=access)) == []


@pytest.mark.parametrize(
    ("url", "options", "error"),
    [
        ("", {}, LocationError),
        ("s3://h:1/b/", {"older_than_seconds": -1}, ValueError),
        ("file:///tmp/", {}, NotSupported),
    ],
)
def test_what_makes_no_sense_is_an_error(url, options, error):
    with pytest.raises(error):
        list(artifacts.gc(url, **options))

"""Uploads in parts that nobody finished, on a real server."""

from datetime import UTC, datetime, timedelta

import pytest
from s3stores import s3_store

from creds.errors import BucketNotFound


@pytest.fixture
def store(seaweed, bucket):
    store = s3_store(seaweed, bucket)
    yield store
    store.close()


def begin(store, bucket, key):
    return store.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]


def test_unfinished_uploads_below_a_prefix_are_found_with_their_age(store, bucket):
    ids = {key: begin(store, bucket, key) for key in ("runs/a.tar", "runs/b c.tar", "other/c.tar")}
    found = list(store.unfinished("runs/"))
    assert {upload.key: upload.upload_id for upload in found} == {
        "runs/a.tar": ids["runs/a.tar"],
        "runs/b c.tar": ids["runs/b c.tar"],
    }
    assert all(abs(datetime.now(UTC) - upload.started) < timedelta(minutes=5) for upload in found)
    assert list(store.list("runs/")) == []


def test_an_aborted_upload_is_gone_and_aborting_it_again_is_no_error(store, bucket):
    begin(store, bucket, "a.tar")
    (upload,) = store.unfinished()
    store.abort(upload)
    assert list(store.unfinished()) == []
    store.abort(upload)


def test_more_uploads_than_a_page_holds_are_all_found(store, bucket, monkeypatch):
    for number in range(7):
        begin(store, bucket, f"{number}.tar")
    whole = store.client.list_multipart_uploads
    monkeypatch.setattr(store.client, "list_multipart_uploads", lambda **asked: whole(MaxUploads=3, **asked))
    assert sorted(upload.key for upload in store.unfinished()) == [f"{number}.tar" for number in range(7)]


def test_a_missing_bucket_is_told_and_is_not_an_empty_one(seaweed):
    store = s3_store(seaweed, "no-such-bucket")
    with pytest.raises(BucketNotFound):
        list(store.unfinished())
    store.close()

"""The S3 store on real servers: the conformance suite, and what is S3's own."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator

import pytest
import servers
from conformance import KEYS, Conformance
from s3stores import s3_store

from creds.stores.s3 import S3Store


class TestSeaweed(Conformance):
    # It keeps folders: a path's last part cannot begin with what it takes for one.
    keys = KEYS

    @pytest.fixture
    def store(self, seaweed: servers.S3Server, bucket: str) -> Iterator[S3Store]:
        store = s3_store(seaweed, bucket)
        yield store
        store.close()


class TestRclone(Conformance):
    enforces = False  # it accepts conditions and ignores them

    @pytest.fixture
    def store(self, rclone_s3: servers.S3Server) -> Iterator[S3Store]:
        store = s3_store(rclone_s3, rclone_s3.make_bucket(f"b-{uuid.uuid4().hex[:12]}"))
        yield store
        store.close()


class TestMoto(Conformance):
    @pytest.fixture
    def store(self, moto_server: servers.S3Server) -> Iterator[S3Store]:
        store = s3_store(moto_server, moto_server.make_bucket(f"b-{uuid.uuid4().hex[:12]}"))
        yield store
        store.close()

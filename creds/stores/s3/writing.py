"""Writing one object: a single PUT when it fits into one part, else parts side by side."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from creds.errors import StoreError
from creds.store import Buffer, Cancel, ObjectMeta, Retries, Share
from creds.stores.s3 import meta
from creds.stores.s3.documents import Document, NotS3, completing, is_error
from creds.stores.s3.errors import error_of, of_answer
from creds.stores.s3.headers import metadata
from creds.stores.s3.parts import MAX_PARTS, Gather, Part, etag_of, first_part_bytes, part_bytes_at
from creds.stores.s3.publishing import Publisher
from creds.stores.s3.resuming import Begun, Resuming
from creds.stores.s3.unfinished import abort
from creds.stores.s3.verb import Verb
from creds.stores.wire import STOP_SECONDS, Wire, spawn

T = TypeVar("T")

_ABORT_SECONDS = 10.0
_CRC32 = "x-amz-checksum-crc32"


class Upload:
    """One write: published only when complete, and nothing of it stays otherwise, unless a journal remembers it."""

    def __init__(
        self, verb: Verb, publisher: Publisher, described: Mapping[str, str], resuming: Resuming | None = None
    ) -> None:
        self._verb = verb
        self._cancel = verb.cancel or Cancel()
        self._publisher = publisher
        self._described = described
        self._resuming = resuming
        self._begun: Begun | None = None
        self._wire = Wire()
        self._running: dict[concurrent.futures.Future[dict[str, Any]], int] = {}
        self._done: list[Mapping[str, Any]] = []
        self._size = 0

    def run(self, buffers: Iterable[Buffer], size_hint_bytes: int | None) -> ObjectMeta:
        self._cancel.check()
        first = first_part_bytes(size_hint_bytes, self._verb.bucket.options.part_bytes)
        gather = Gather(buffers, self._cancel.check)
        with self._cancel.calling(self._wire.stop), self._verb.bucket.window.stream() as share:
            if self._publisher.conditional:
                self._here(self._publisher.compare_unless_enforced)
            if self._resuming is not None:
                self._begun = self._here(self._resuming.begun)
            if self._begun is not None:
                first = self._begun.part_bytes
                self._publisher.mark = dict(self._begun.mark)
            share.take(first)
            content = gather.take(first)
            share.give(first - content.size_bytes)
            if content.size_bytes < first:
                return self._here(lambda: self._put(content))
            return self._multipart(gather, content, share, hinted=size_hint_bytes is not None)

    def _here(self, work: Callable[[], T]) -> T:
        """Do ``work`` in a thread of its own, and stop waiting for it when the write is stopped."""
        return self._wire.do(work, self._cancel)

    def _put(self, content: Part) -> ObjectMeta:
        def send(condition: Mapping[str, str]) -> ObjectMeta:
            described = self._marked() if self._publisher.conditional else self._described
            reply = self._verb.ask("PutObject", "PUT", asked={**described, **condition}, body=content)
            told = meta.of_headers(self._verb.key, reply.headers)
            self._verb.check_object(told)
            return told

        return self._publisher.publish(send, content.size_bytes, lambda: f'"{content.md5()}"')

    # Parts.

    def _multipart(self, gather: Gather, content: Part, share: Share, *, hinted: bool) -> ObjectMeta:
        first = content.size_bytes
        upload_id = self._here(lambda: self._begin(first))
        try:
            number = 1
            while content.size_bytes:
                if self._begun is not None and self._begun.sizes.get(number) == content.size_bytes:
                    self._size += content.size_bytes
                    self._done.append(self._begun.parts[number])
                    share.give(content.size_bytes)
                else:
                    self._send(upload_id, number, content)
                number += 1
                count = part_bytes_at(number, first, hinted=hinted)
                self._make_room(share, count)
                content = gather.take(count)
                share.give(count - content.size_bytes)
            while self._running:
                self._reap(share)
            done = self._here(lambda: self._complete(upload_id))
        except BaseException as error:
            if self._resuming is None or not self._resuming.may_go_on(error):
                self._abort(upload_id, quick=self._cancel.cancelled or not isinstance(error, Exception))
                if self._resuming is not None:
                    self._resuming.forget()
            else:
                self._wire.stop()
                concurrent.futures.wait(self._running, timeout=STOP_SECONDS)
            raise
        if self._resuming is not None:
            self._resuming.forget()
        return done

    def _begin(self, first: int) -> str:
        """The upload that goes on, or a new one."""
        if self._begun is not None:
            return self._begun.upload_id
        upload_id = self._verb.call(self._create)
        if self._resuming is not None:
            self._resuming.begin(upload_id, first, self._publisher.mark)
        return upload_id

    def _create(self) -> str:
        summed = {"x-amz-checksum-algorithm": "CRC32"} if self._verb.bucket.checksums else {}
        asked = {**self._marked(), **summed}
        begun = self._verb.document(("UploadId",), "CreateMultipartUpload", "POST", query={"uploads": ""}, asked=asked)
        upload_id = begun.text("UploadId")
        if not upload_id:
            raise self._verb.not_s3()
        return upload_id

    def _marked(self) -> dict[str, str]:
        """What describes the object, and by what its publisher knows it again."""
        return {**self._described, **metadata(self._publisher.mark)}

    def _send(self, upload_id: str, number: int, content: Part) -> None:
        if number > MAX_PARTS:
            raise self._verb.failed(StoreError, f"larger than {MAX_PARTS} parts hold", hint="give a size hint")
        self._size += content.size_bytes

        query = {"uploadId": upload_id, "partNumber": str(number)}

        def send() -> dict[str, Any]:
            told = self._verb.ask("UploadPart", "PUT", query=query, body=content).headers
            if "etag" not in told:
                raise self._verb.not_s3()
            summed = {"ChecksumCRC32": told[_CRC32]} if _CRC32 in told else {}
            return {"PartNumber": number, "ETag": told["etag"], **summed}

        self._running[spawn(lambda: self._verb.call(send), self._wire)] = content.size_bytes

    def _make_room(self, share: Share, count: int) -> None:
        """Wait until the next part may be gathered: at once when none is on its way, else within the window."""
        while self._running:
            if len(self._running) < self._verb.bucket.options.parallel_parts and share.try_take(count):
                return
            self._reap(share)
        share.take(count)

    def _reap(self, share: Share) -> None:
        """Wait for a part to arrive, and account for all that have."""
        self._wire.wait_for(tuple(self._running), self._cancel)
        for future in [future for future in self._running if future.done()]:
            size = self._running.pop(future)
            share.give(size)
            part = future.result()
            self._done.append(part)
            if self._resuming is not None:
                self._resuming.add(part, size)

    def _complete(self, upload_id: str) -> ObjectMeta:
        parts = sorted(self._done, key=lambda part: int(part["PartNumber"]))

        query = {"uploadId": upload_id}
        named = Part((completing(parts),))

        def send(condition: Mapping[str, str]) -> ObjectMeta:
            reply = self._verb.ask("CompleteMultipartUpload", "POST", query=query, asked=condition, body=named)
            if is_error(reply.body):
                # S3 answers 200 before it knows: what a 500 says then stands in the body.
                raise error_of(of_answer(500, reply.headers, reply.body), self._verb.op, self._verb.where)
            try:
                etag = Document(reply.body, "ETag", "Key").text("ETag")
            except NotS3 as error:
                raise self._verb.not_s3() from error
            return replace(meta.of_headers(self._verb.key, reply.headers), etag=meta.quoted(etag), checksums={})

        return self._publisher.publish(send, self._size, lambda: etag_of([str(part["ETag"]) for part in parts]))

    def _abort(self, upload_id: str, *, quick: bool) -> None:
        """Remove the parts, as well as can be done: the failure that led here is what the caller hears of."""
        self._wire.stop()
        concurrent.futures.wait(self._running, timeout=STOP_SECONDS)
        patience = Retries(attempts=3, for_seconds=_ABORT_SECONDS / 2)

        verb = replace(self._verb, cancel=None, on_retry=None)
        future = spawn(lambda: verb.call(lambda: abort(verb, upload_id), patience), None)
        concurrent.futures.wait((future,), timeout=STOP_SECONDS if quick else _ABORT_SECONDS)

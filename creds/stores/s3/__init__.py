"""S3 and what speaks like it, by connections of our own; boto3 is the live client for what a store has no verb for.

A small object is one exchange in the thread that wants it; a large one is read in parts side by side, in pieces that
the processor's cache still holds when they are written. Both cost a fraction of what a general client takes
(``docs/performance.md``), which is why this protocol is spoken here and not by a library.

Nothing is taken from the process's environment: no stray ``AWS_*`` variable or ``~/.aws`` file says anything, neither
here nor to boto3, which is told everything. The one documented exception is the proxy (``HTTP_PROXY``, ``HTTPS_PROXY``,
``NO_PROXY``). :mod:`creds.retry` is the only loop that repeats a request, and it sees every failure as one of
:mod:`creds.errors`. No redirect is followed: keys sign for one host.

From the bottom up: ``signing``, ``connections`` (to the server; they speak :mod:`creds.stores.http1`), ``errors`` (what
an answer means), ``documents`` (S3's XML), ``meta`` and ``headers`` (what is told of an object, and with a request),
``bucket`` (requests of one identity; ``client`` is boto3, isolated and loaded when it is asked for), ``exchange`` (one
request and its answer), ``verb`` (its retries), ``reading`` and ``ranges``, ``conditions``, ``publishing``, ``parts``
and ``writing``, ``unfinished`` and ``resuming``, and ``store`` (the verbs).

Known limits. No checksum is verified on a GET unless asked for, so a byte flipped on a plaintext link comes back as
content; compare digests where that matters. A response to CreateMultipartUpload that is lost on the way leaves an empty
upload behind, because its id is in that response.
"""

from creds.stores.s3.store import S3Store as S3Store

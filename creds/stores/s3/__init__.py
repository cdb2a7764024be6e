"""S3 and what speaks like it: boto3 decides who we are, writes and is the live client; obstore reads.

Both engines take settings from the process's environment unless told otherwise, so both are told everything: the
endpoint, region, keys, addressing and every switch that a stray ``AWS_*`` variable or ``~/.aws`` file could turn. The
one documented exception is the proxy (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``). Neither engine repeats a request
by itself: :mod:`creds.retry` is the only loop, and it sees every failure as one of :mod:`creds.errors`.

From the bottom up: ``errors`` (what an answer means), ``meta`` (what it tells of an object), ``wire`` (how boto3 is
stopped), ``loop`` (where obstore runs), ``client`` and ``reader`` (the engines, isolated; loaded when first needed),
``bucket`` (both of them for one bucket), ``verb`` (requests, retries and errors of one verb on one key), ``reading``
with ``ranges`` and ``stream``, ``conditions``, ``publishing``, ``parts`` and ``writing``, and ``store`` (the verbs).

Known limits. obstore follows a redirect that carries a Location (without the credentials) and verifies no checksum on
a GET, so a byte flipped on a plaintext link comes back as content; compare digests where that matters. A response to
CreateMultipartUpload that is lost on the way leaves an empty upload behind, because its id is in that response.
"""

from creds.stores.s3.store import S3Store as S3Store

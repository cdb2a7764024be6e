"""http and https by urllib3: plain downloads, presigned URLs, and WebDAV for everything that writes.

urllib3 repeats nothing and follows nothing by itself: :mod:`creds.retry` is the only loop, and each redirect is looked
at here before it is followed. Its logs never see a query, which may be a signature.

From the bottom up: ``url`` (where a request goes), ``errors`` (what an answer means), ``connections`` (pinned
addresses, TLS, proxies), ``transport`` (one request, its credential and its redirects), ``dav`` (what PROPFIND says),
``reading``, ``writing``, and ``store`` (the verbs).

Known limits. One object is one stream, resumed where it broke: no ranges side by side. WebDAV cannot append, so an
upload that breaks after its first part was sent is not repeated here; its caller starts it anew. ``if_match`` on a
write is compared just before the object is published: another writer in between is not noticed.
"""

from creds.stores.http.store import HttpStore as HttpStore
from creds.stores.http.transport import basic as basic

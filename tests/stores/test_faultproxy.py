"""The fault proxy itself, before a small HTTP server."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from creds.testing import Fault, FaultProxy

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    class Plain(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def do_PUT(self) -> None:
            received = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(len(received))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a broken connection is what is tested

    seen: list[int] = []
    with Server(("127.0.0.1", 0), Plain) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with FaultProxy(("127.0.0.1", server.server_address[1])) as proxy:
            proxy.seen = seen  # type: ignore[attr-defined]
            yield proxy
        server.shutdown()
        thread.join()


def get(proxy: FaultProxy, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    try:
        connection.request(method, "/path", body)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.headers)
    finally:
        connection.close()


def test_without_a_fault(proxy: FaultProxy) -> None:
    # Requests pass unchanged and are remembered.
    assert get(proxy)[:2] == (200, CONTENT)
    assert get(proxy, "PUT", CONTENT)[0] == 200
    assert proxy.requests == ["GET /path HTTP/1.1", "PUT /path HTTP/1.1"]
    assert proxy.seen == [len(CONTENT)]
    assert proxy.count("^PUT") == 1


def test_answers_for_the_server(proxy: FaultProxy) -> None:
    # As often as it says, and only to what matches; the server is not asked.
    proxy.add(Fault(match="^GET", status=503, body=b"busy", headers={"Retry-After": "7"}, times=2))
    assert get(proxy, "PUT", b"x")[0] == 200
    for _ in range(2):
        status, body, headers = get(proxy)
        assert (status, body, headers["Retry-After"]) == (503, b"busy", "7")
    assert get(proxy)[0] == 200


def test_cuts_the_answer(proxy: FaultProxy) -> None:
    # So many bytes of the body arrive, then the connection breaks.
    proxy.add(Fault(down_cut_bytes=100_000))
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        get(proxy)
    assert get(proxy)[1] == CONTENT


def test_cuts_the_request(proxy: FaultProxy) -> None:
    # The server never has the whole body.
    proxy.add(Fault(up_cut_bytes=1000))
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        get(proxy, "PUT", CONTENT)
    assert len(CONTENT) not in proxy.seen


def test_loses_the_answer(proxy: FaultProxy) -> None:
    # The server did it, and the client never learns.
    proxy.add(Fault(lose_answer=True))
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        get(proxy, "PUT", CONTENT)
    assert proxy.seen == [len(CONTENT)]


def test_corrupts_one_byte(proxy: FaultProxy) -> None:
    # Exactly the byte asked for is changed.
    proxy.add(Fault(down_corrupt_at=70_001))
    body = get(proxy)[1]
    assert [at for at in range(len(CONTENT)) if body[at] != CONTENT[at]] == [70_001]


def test_hooks(proxy: FaultProxy) -> None:
    # One is called when the request begins, the other when so much of the answer was passed on.
    heard: list[str] = []
    proxy.add(Fault(hook=lambda: heard.append("begin"), mid_hook=(100_000, lambda: heard.append("middle"))))
    assert get(proxy)[1] == CONTENT
    assert heard == ["begin", "middle"]


def test_closes_what_is_open(proxy: FaultProxy) -> None:
    # Closing breaks what waits, and leaves no thread.
    proxy.add(Fault(delay_seconds=60))
    failed: list[Exception] = []

    def wait() -> None:
        try:
            get(proxy)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while proxy.open_connections == 0:
        time.sleep(0.001)
    proxy.close()
    thread.join()
    assert len(failed) == 1
    assert proxy.open_connections == 0
    assert not [each for each in threading.enumerate() if each.name == "fault-proxy"]

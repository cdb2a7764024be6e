"""A proxy that makes a server seem far away: every byte arrives half a round trip later, in each direction.

usage: python far.py PORT HOST:PORT ROUND_TRIP_SECONDS

A new connection waits one round trip more, as its handshake would. The rate is not limited: what is on its way is
held, up to 64 MiB a direction.
"""

import asyncio
import contextlib
import socket
import sys
from collections import deque

PIECE_BYTES = 512 << 10
HELD_BYTES = 64 << 20


async def pump(source: socket.socket, sink: socket.socket, seconds: float, first_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    held: deque[tuple[float, bytes]] = deque()
    size, changed, ended = 0, asyncio.Event(), False
    opened = loop.time() + first_seconds

    async def read() -> None:
        nonlocal size, ended
        while not ended:
            while size > HELD_BYTES:
                changed.clear()
                await changed.wait()
            piece = await loop.sock_recv(source, PIECE_BYTES)
            held.append((max(loop.time(), opened) + seconds, piece))
            size += len(piece)
            ended = not piece
            changed.set()

    async def write() -> None:
        nonlocal size
        while True:
            while not held:
                changed.clear()
                await changed.wait()
            due, piece = held.popleft()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not piece:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, piece)
            size -= len(piece)
            changed.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        group.create_task(write())


async def serve(client: socket.socket, upstream: tuple[str, int], round_trip_seconds: float) -> None:
    with client, socket.socket() as server:
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A connection that either side ends is an ordinary end.
        with contextlib.suppress(OSError, ExceptionGroup):
            await asyncio.get_running_loop().sock_connect(server, upstream)
            half = round_trip_seconds / 2
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(client, server, half, round_trip_seconds))
                group.create_task(pump(server, client, half, 0.0))


async def main(port: int, upstream: tuple[str, int], round_trip_seconds: float) -> None:
    tasks = set()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listening:
        listening.setblocking(False)
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listening)
            task = asyncio.create_task(serve(client, upstream, round_trip_seconds))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    host, _, number = sys.argv[2].partition(":")
    asyncio.run(main(int(sys.argv[1]), (host, int(number)), float(sys.argv[3])))

"""What a server withstands when the machine runs out of something (threat model, item 24)."""

import errno
import logging
import os
import select
import socket
from collections.abc import Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

import triows
from tests.hostile.crowd import (
    HELLO,
    HELLO_BACK,
    PATIENCE,
    REQUEST,
    MeasuredServer,
    join,
    receive,
    receive_head,
)
from tests.hostile.measured_server import echo

EXHAUSTED = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
SOON = 1.0
"""Seconds within which a server has recovered."""
SPIN = 0.3
"""The part of a CPU that a server which only waits must not use."""


KINDS = [("reactor", 0), ("reactor", 1), ("tasks", 0), ("stream", 0)]


@pytest.fixture(params=KINDS, ids=lambda one: str(one[0]))
def server(request: pytest.FixtureRequest) -> Iterator[MeasuredServer]:
    """A server in a process of its own."""
    server = MeasuredServer(*request.param)
    yield server
    assert "Traceback" not in server.close()


def greet(client: socket.socket) -> None:
    """Exchange a message."""
    client.sendall(HELLO)
    assert receive(client, len(HELLO_BACK)) == HELLO_BACK


def answered(clients: list[socket.socket], seconds: float) -> list[socket.socket]:
    """Those of *clients* that have got an answer once the time is over, or all have."""
    poll = select.epoll()
    waiting = {client.fileno(): client for client in clients}
    for number in waiting:
        poll.register(number, select.EPOLLIN)
    found = []
    while waiting and (events := poll.poll(seconds)):
        for number, _ in events:
            poll.unregister(number)
            found.append(waiting.pop(number))
    poll.close()
    return found


def test_item_24_without_descriptors_it_waits_and_recovers(server: MeasuredServer):
    """At its limit of descriptors a server neither spins nor forgets who waits to be accepted."""
    (guests, _), held = join(server.addresses, 8), server.settle(8)["descriptors"]
    server.limit_descriptors(held - 1)  # counting them took one
    crowd = [socket.create_connection(server.addresses[0], PATIENCE) for _ in range(12)]
    for client in crowd:
        client.sendall(REQUEST)
    before = server.used_cpu()
    assert answered(crowd, SOON) == []
    assert server.used_cpu() - before < SPIN * SOON
    for guest in guests:
        greet(guest)

    for guest in guests:
        guest.close()
    first = answered(crowd, SOON)
    assert 6 <= len(first) <= 8
    server.limit_descriptors(1_000)
    rest = answered([client for client in crowd if client not in first], SOON)

    assert len(first) + len(rest) == 12
    for client in crowd:
        receive_head(client)
        greet(client)
        client.close()


@asynccontextmanager
async def reactor_listening():
    """A reactor, and the address where it listens."""
    async with triows.open_reactor(threads=0) as reactor:
        yield (await reactor.listen(0))[0]


@asynccontextmanager
async def stream_listening():
    """A server by the stream driver, and the address where it listens."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(triows.serve, echo, 0, driver="stream"))
        yield server.addresses[0]
        nursery.cancel_scope.cancel()


def fail_accepts(monkeypatch: pytest.MonkeyPatch, owner: type, code: int, times: int) -> list[int]:
    """Let the first *times* accepts of *owner*'s sockets fail; what it returns holds the rest."""
    real, left = owner.accept, [times]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))

    def accept(self):
        fail()
        return real(self)

    async def accept_later(self):
        await trio.lowlevel.checkpoint()
        fail()
        return await real(self)

    monkeypatch.setattr(owner, "accept", accept if owner is socket.socket else accept_later)
    return left


@pytest.mark.parametrize("listening", [reactor_listening, stream_listening])
@pytest.mark.parametrize("code", [*EXHAUSTED, errno.ECONNABORTED], ids=errno.errorcode.get)
async def test_item_24_a_failing_accept_is_waited_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, warm, listening, code
):
    """Each failure of an exhausted machine is waited out; one of a connection costs nothing."""
    with trio.socket.socket() as one:
        owner = socket.socket if listening is reactor_listening else type(one)
    left = fail_accepts(monkeypatch, owner, code, times=2)
    with trio.fail_after(20), caplog.at_level(logging.WARNING):
        async with listening() as address:
            start = trio.current_time()
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all(REQUEST)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            took = trio.current_time() - start
            await stream.aclose()

    assert left == [0]
    assert took < SOON
    assert (took > 0.15) == (code in EXHAUSTED)
    assert [record.exc_info for record in caplog.records] == [None] * (2 * (code in EXHAUSTED))

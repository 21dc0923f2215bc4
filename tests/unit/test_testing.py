"""The test kit: a client and a server in memory."""

import pytest
import trio

import triows
from triows.testing import _OneConnection, _open_streams, memory_pair


async def test_both_ends_talk(autojump_clock):
    """Messages go both ways, whatever their size, and leaving closes with 1000."""
    async with memory_pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, "a" * 300_000)
        assert await server.receive() == "a" * 300_000
        await server.send(b"b")
        assert await client.receive() == b"b"
    assert client.close_reason == server.close_reason == triows.CloseReason(1000, "")
    assert trio.current_time() == 0


async def test_options(autojump_clock):
    """Both ends get the limits, the keepalive and the subprotocols; the client the URL."""
    async with memory_pair(
        url="ws://a.example/b?c",
        subprotocols=["p", "q"],
        limits=triows.Limits(max_message=10),
        keepalive=triows.KeepAlive(interval=5, timeout=5),
    ) as (client, server):
        assert server.request.target == "/b?c"
        assert server.request.host == "a.example"
        assert (client.subprotocol, server.subprotocol) == ("p", "p")
        await client.send("a" * 11)
        with pytest.raises(triows.ConnectionBroken) as caught:
            await server.receive()
        assert caught.value.code == 1009


async def test_a_handler(autojump_clock):
    """A handler runs on the server's end; when it returns, the connection closes with 1000."""

    async def greet(ws):
        await ws.send("hello")

    async with memory_pair(handler=greet) as (client, server):
        assert [message async for message in client] == ["hello"]
    assert server.close_reason.code == 1000


async def test_keepalive_in_virtual_time(autojump_clock):
    """Two ends that are silent for an hour keep each other alive."""
    async with memory_pair() as (client, server):
        await trio.sleep(3_600)
        await client.send("good day")
        assert await server.receive() == "good day"


async def test_what_the_block_raises_comes_out(autojump_clock):
    """The block's exception is the one that comes out, be it a group."""
    group = ExceptionGroup("mine", [KeyError("a")])
    with pytest.raises(ExceptionGroup) as caught:
        async with memory_pair():
            raise group
    assert caught.value is group


async def test_a_full_pipe_holds_the_sender_back(autojump_clock):
    """What one end does not read fills the pipe, and then the other end's queue."""
    limits = triows.Limits(receive_queue_octets=100, send_queue_octets=100)
    async with memory_pair(capacity=100, limits=limits) as (client, server):
        sent = 0
        with trio.move_on_after(1):
            while True:
                await client.send(b"a" * 50)
                sent += 1
        assert 2 < sent < 20
        assert [await server.receive() for _ in range(sent)] == [b"a" * 50] * sent


async def test_capacity(autojump_clock):
    """A pipe that holds nothing is refused."""
    with pytest.raises(ValueError, match="not 0"):
        async with memory_pair(capacity=0):
            pass


# The streams that it stands on.


async def test_streams_wait_for_room(autojump_clock):
    """Waiting until sending might not block ends when there is room, or none to come."""
    ours, theirs = _open_streams(2)
    await ours.wait_send_all_might_not_block()
    await ours.send_all(b"ab")
    with trio.move_on_after(1) as scope:
        await ours.wait_send_all_might_not_block()
    assert scope.cancelled_caught
    assert await theirs.receive_some() == b"ab"
    await ours.wait_send_all_might_not_block()
    await ours.send_all(b"ab")
    await theirs.aclose()
    await ours.wait_send_all_might_not_block()


async def test_streams_end_and_break(autojump_clock):
    """An end that stops sending is an end of input; one that is closed breaks the other."""
    ours, theirs = _open_streams(10)
    await ours.send_eof()
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"a")
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"a")


async def test_streams_have_a_listener_that_closes(autojump_clock):
    """The listener offers one connection, then none."""
    stream, _ = _open_streams(1)
    async with _OneConnection(stream) as listener:
        assert await listener.accept() is stream
        with trio.move_on_after(1) as scope:
            await listener.accept()
        assert scope.cancelled_caught

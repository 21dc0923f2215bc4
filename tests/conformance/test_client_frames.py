"""Frames, text, closing and limits, the client's side: items 27 to 47 and 54 of the list.

The raw server breaks the rules. After every bad frame the client sends a Close with
the code for it and drops the connection, whatever the server does then.
"""

import pytest
import trio

import triows
from tests.conformance.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    Frame,
    build_close,
    build_frame,
)
from tests.conformance.raw_server import RawServer
from tests.conformance.transports import in_memory

TOP_BIT = b"\x82\x7f\x80" + bytes(7)
VAST = b"\x82\x7f\x40" + bytes(7)


def frame(opcode: int, payload: bytes = b"", **wrongs) -> bytes:
    """A frame as a server sends it, unless *wrongs* say otherwise."""
    return build_frame(opcode, payload, **{"mask": None, **wrongs})


def close(code: int, reason: bytes = b"") -> bytes:
    """A Close frame as a server sends it."""
    return build_close(code, reason, mask=None)


BAD = {
    "27-masked": (1002, frame(TEXT, b"a", mask=b"\1\2\3\4")),
    "27-masked-empty": (1002, frame(BINARY, mask=b"\0\0\0\0")),
    **{f"27-rsv-{rsv}": (1002, frame(TEXT, b"a", rsv=rsv)) for rsv in (1, 2, 4, 7)},
    **{f"27-opcode-{op}": (1002, frame(op)) for op in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "28-top-bit": (1002, TOP_BIT),
    "28-vast": (1009, VAST),
    "29-not-minimal-2": (1002, frame(BINARY, b"a" * 125, length_size=2)),
    "29-not-minimal-8": (1002, frame(BINARY, b"a" * 126, length_size=8)),
    "30-long-ping": (1002, b"\x89\x7e\x00\x7e"),
    "30-long-close": (1002, b"\x88\x7e\x00\x7e"),
    "30-fragmented-ping": (1002, frame(PING, fin=False)),
    "31-stray-continuation": (1002, frame(CONTINUATION, b"a")),
    "31-data-in-message": (1002, frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
    "39-bad-octet": (1007, frame(TEXT, b"\xff")),
    "39-surrogate": (1007, frame(TEXT, b"\xed\xa0\x80")),
    "39-overlong": (1007, frame(TEXT, b"\xc0\xaf")),
    "39-too-high": (1007, frame(TEXT, b"\xf4\x90\x80\x80")),
    "39-truncated": (1007, frame(TEXT, "€".encode()[:2])),
    "40-first-fragment": (1007, frame(TEXT, b"\xff", fin=False)),
    "40-unfinished-frame": (1007, frame(TEXT, b"a\xff", declared=100)),
    **{
        f"43-close-{code}": (1002, close(code))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "44-close-of-one-octet": (1002, frame(CLOSE, b"\x03")),
    "44-reason-not-utf8": (1007, close(1000, b"\xff")),
    "44-reason-of-124": (1002, b"\x88\x7e\x00\x7e" + b"\x03\xe8" + b"a" * 124),
    "54-too-large": (1009, frame(BINARY, b"a" * 1001)),
    "54-too-large-announced": (1009, frame(BINARY, declared=1001)),
    "54-too-large-in-fragments": (
        1009,
        frame(BINARY, b"a" * 600, fin=False) + frame(CONTINUATION, b"a" * 401),
    ),
}
LIMITS = triows.Limits(max_message=1000)

bad = pytest.mark.parametrize(("code", "octets"), BAD.values(), ids=BAD)


@bad
async def test_a_bad_frame_fails_the_connection(meet, code: int, octets: bytes):
    """The client sends Close with the code for it, tells the application, and drops TCP."""
    async with meet(limits=LIMITS) as (ws, server):
        await server.send(octets)
        with pytest.raises(triows.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == code
        assert (await server.receive_close()).code == code
        await server.send_close(code)
        await server.end()
        assert await server.receive_end() == b""
    assert ws.close_reason.code == code


@bad
@in_memory
async def test_item_47_silence_after_a_bad_frame(meet, code: int, octets: bytes):
    """Item 47: a server that goes on as if nothing were is dropped within close_timeout."""
    async with meet(limits=LIMITS) as (ws, server):
        before = trio.current_time()
        await server.send(octets)
        assert (await server.receive_close()).code == code
        assert await server.receive_end() == b""
        assert trio.current_time() - before <= LIMITS.close_timeout
    assert ws.close_reason.code == code


async def test_item_47_a_socket_is_dropped_too(meet):
    """Item 47: over TCP too the connection is dropped within close_timeout."""
    limits = triows.Limits(close_timeout=0.2)
    async with meet(limits=limits) as (_, server):
        await server.send(frame(3))
        assert (await server.receive_close()).code == 1002
        with trio.fail_after(5):
            assert await server.receive_end() == b""


async def test_item_32_ping_between_fragments(meet):
    """Item 32: a Ping between fragments is answered at once, with its payload."""
    async with meet() as (ws, server):
        await server.send_frame(TEXT, b"a", fin=False)
        for payload in (b"", b"p" * 125):
            await server.send_frame(PING, payload)
            assert await server.receive_frame() == Frame(PONG, payload)
        await server.send_frame(CONTINUATION, b"b")
        assert await ws.receive() == "ab"


async def test_item_33_unsolicited_pong(meet):
    """Item 33: a Pong that answers nothing is ignored."""
    async with meet() as (ws, server):
        await server.send_frame(PONG, b"x")
        await server.send_frame(BINARY, b"y")
        assert await ws.receive() == b"y"


async def test_item_34_empty_fragments(meet):
    """Item 34: 2,000 empty fragments are an empty message."""
    octets = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 1998 + frame(CONTINUATION)
    async with meet() as (ws, server):
        await server.send(octets)
        assert await ws.receive() == ""


async def test_item_35_split_at_every_octet(meet):
    """Item 35: frames that come octet by octet are the same."""
    octets = frame(TEXT, b"ab", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"c" * 130)
    async with meet() as (ws, server):
        for octet in octets:
            await server.send(bytes([octet]))
            await trio.lowlevel.checkpoint()
        assert await ws.receive() == "ab" + "c" * 130


async def test_item_35_many_frames_at_once(meet):
    """Item 35: 2,000 frames in one write come out in order."""
    async with meet() as (ws, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.send, b"".join(frame(TEXT, b"%d" % n) for n in range(2000)))
        assert [await ws.receive() for _ in range(2000)] == [str(n) for n in range(2000)]


SIZES = (*range(9), 31, 33, 125, 126, 127, 65_535, 65_536, 65_537)


@pytest.mark.parametrize("size", SIZES)
async def test_item_36_sizes(meet, size: int):
    """Items 36, 37: messages of every kind of length go both ways; what is sent is masked."""
    payload = bytes(range(256)) * (size // 256 + 1)
    async with meet() as (ws, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.send_frame, BINARY, payload[:size])
        assert await ws.receive() == payload[:size]
        nursery.start_soon(ws.send, payload[:size])
        assert await server.receive_frame() == Frame(BINARY, payload[:size])


async def test_item_37_each_frame_has_a_key_of_its_own(meet):
    """Item 37 (RFC 6455 §5.3): each frame is masked with a fresh key."""
    async with meet() as (ws, server):
        for _ in range(100):
            await ws.send("a")
            await server.receive_frame()
        assert len(set(server.masks)) > 98


async def test_item_38_many_pings(meet):
    """Item 38: 10,000 Pings to which no answer is read do not pile up."""
    async with meet() as (ws, server):
        await server.send(frame(PING, b"p" * 125) * 10_000 + frame(TEXT, b"end"))
        assert await ws.receive() == "end"
        assert ws.statistics().unsent_octets < 2**20


async def test_item_41_a_code_point_across_fragments(meet):
    """Item 41: a code point may be cut by fragments and a Ping."""
    octets = "€".encode()
    async with meet() as (ws, server):
        await server.send(frame(TEXT, octets[:1], fin=False) + frame(PING))
        await server.send(frame(CONTINUATION, octets[1:]))
        assert await ws.receive() == "€"


async def finish(server: RawServer) -> bytes:
    """Drop TCP as a server does once the closing handshake is done."""
    await server.end()
    return await server.receive_end()


async def test_item_42_empty_close(meet):
    """Item 42: an empty Close is answered with an empty one or 1000, and is a clean end."""
    async with meet() as (ws, server):
        await server.send_close()
        assert (await server.receive_close()).code in {None, 1000}
        with pytest.raises(trio.EndOfChannel):
            await ws.receive()
        assert await finish(server) == b""
    assert ws.close_reason.code == 1005


@in_memory
async def test_item_42_the_server_drops_tcp_first(meet):
    """Item 42 (§7.1.1): the client waits for the server to drop TCP, but not for ever."""
    async with meet() as (_, server):
        before = trio.current_time()
        await server.send_close(1000)
        assert (await server.receive_close()).code == 1000
        assert await server.receive_end() == b""
        assert trio.current_time() - before == triows.Limits().close_timeout


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4999])
async def test_item_43_codes_are_echoed(meet, code: int):
    """Item 43: a code that may be sent is echoed, and told with its reason."""
    async with meet() as (ws, server):
        await server.send_close(code, b"why")
        assert (await server.receive_close()).code == code
        assert await finish(server) == b""
    assert ws.close_reason == triows.CloseReason(code, "why")


async def test_item_44_longest_reason(meet):
    """Item 44: a reason of 123 octets is fine."""
    async with meet() as (ws, server):
        await server.send_close(1000, b"r" * 123)
        assert (await server.receive_close()).code == 1000
        assert await finish(server) == b""
    assert ws.close_reason.reason == "r" * 123


async def test_item_45_nothing_after_close(meet):
    """Item 45: what comes behind a Close is not answered; a Close in mid-message is."""
    async with meet() as (ws, server):
        await server.send(frame(TEXT, b"a", fin=False) + close(1000) + frame(PING) + frame(3))
        assert await server.receive_close() == Close(1000)
        assert await finish(server) == b""
    assert ws.close_reason.code == 1000


async def test_item_45_nothing_is_sent_after_close(meet):
    """Item 45: the application can send nothing more, and is told the server's code."""
    async with meet() as (ws, server):
        await server.send_close(3000)
        assert await server.receive_close() == Close(3000)
        with pytest.raises(triows.ConnectionBroken) as caught:
            await ws.send("late")
        assert caught.value.code == 3000
        assert await finish(server) == b""


async def test_item_46_half_close(meet):
    """Item 46: a server that ends its side without Close is answered by the end of ours."""
    async with meet() as (ws, server):
        await server.end()
        with pytest.raises(triows.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == 1006
        await server.receive_end()


async def test_item_46_reset_in_a_frame(meet):
    """Item 46: a connection that is cut off within a frame is a broken one."""
    async with meet() as (ws, server):
        await server.send(frame(BINARY, b"a", declared=100))
        server.reset()
        with pytest.raises(triows.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == 1006


async def test_item_54_the_limit_itself(meet):
    """Item 54: a message of exactly the limit passes, whole and in fragments."""
    async with meet(limits=LIMITS) as (ws, server):
        await server.send_frame(BINARY, b"a" * 1000)
        await server.send_frame(BINARY, b"a" * 600, fin=False)
        await server.send_frame(CONTINUATION, b"a" * 400)
        assert [len(await ws.receive()) for _ in range(2)] == [1000, 1000]

"""The raw peer and its transports are judges: what they let pass, and what they refuse."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.conformance.peer import (
    BINARY,
    CLOSE,
    KEY,
    PING,
    SAMPLE_ACCEPT,
    TEXT,
    Close,
    EndedError,
    Frame,
    Peer,
    build_close,
    build_frame,
    build_request,
)
from tests.conformance.transports import MemoryStream, open_pair


@pytest.fixture
def ends() -> tuple[Peer, MemoryStream]:
    """A peer, and the stream by which a test plays the server."""
    client, server = open_pair()
    return Peer(client, patience=1.0), server


async def test_pipes_keep_to_the_contract_of_streams():
    """Trio's own check of half-closeable streams finds nothing wrong."""

    async def make() -> tuple[MemoryStream, MemoryStream]:
        await trio.lowlevel.checkpoint()
        return open_pair()

    async def make_clogged() -> tuple[MemoryStream, MemoryStream]:
        await trio.lowlevel.checkpoint()
        ends = open_pair()
        for end in ends:
            end.outgoing.octets += bytes(end.outgoing.capacity)
        return ends

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_a_reset_loses_what_is_under_way():
    """The other end of a connection that was cut off gets an error, not the octets."""
    client, server = open_pair()
    await client.send_all(b"lost")
    client.reset()

    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()


def test_the_example_of_the_rfc_is_built():
    """A masked "Hello" is that of RFC 6455 §5.7."""
    assert build_frame(TEXT, b"Hello").hex() == "818537fa213d7f9f4d5158"


@pytest.mark.parametrize(
    ("size", "head"),
    [(125, "82fd"), (126, "82fe007e"), (65_535, "82feffff"), (65_536, "82ff0000000000010000")],
)
def test_lengths_are_minimal_unless_asked_otherwise(size: int, head: str):
    """The three forms of a length begin where §5.2 says."""
    assert build_frame(BINARY, bytes(size)).startswith(bytes.fromhex(head + "37fa213d"))


def test_fields_of_a_request_can_be_replaced_and_left_out():
    """Only what was asked for differs from the request that every server accepts."""
    request = build_request(b"GET /x HTTP/1.1", (b"A", b"b"), without=[b"Host"], upgrade=b"h2c")
    assert request.startswith(b"GET /x HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n")
    assert request.endswith(b"\r\nA: b\r\n\r\n")
    assert b"Host" not in request


@pytest.mark.parametrize(
    "frame", [Frame(TEXT, b"hi"), Frame(BINARY, bytes(70_000)), Frame(PING, b"")]
)
async def test_a_good_frame_is_received(ends: tuple[Peer, MemoryStream], frame: Frame):
    """What keeps to the rules arrives as it was sent."""
    peer, server = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, build_frame(frame.opcode, frame.payload, mask=None))
        assert await peer.receive_frame() == frame


@pytest.mark.parametrize(
    "octets",
    [
        build_frame(TEXT, b"masked"),
        build_frame(TEXT, b"reserved bit", rsv=4, mask=None),
        build_frame(3, b"reserved opcode", mask=None),
        build_frame(TEXT, b"long form", length_size=2, mask=None),
        build_frame(TEXT, b"longer form", length_size=8, mask=None),
        build_frame(PING, b"fragmented", fin=False, mask=None),
        build_frame(PING, bytes(126), mask=None),
    ],
    ids=["masked", "rsv", "opcode", "2 octets", "8 octets", "fragmented", "126"],
)
async def test_a_bad_frame_is_refused(ends: tuple[Peer, MemoryStream], octets: bytes):
    """Every rule for what a server sends is held up."""
    peer, server = ends
    await server.send_all(octets)
    with pytest.raises(AssertionError):
        await peer.receive_frame()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2000, 5000])
async def test_a_bad_close_code_is_refused(ends: tuple[Peer, MemoryStream], code: int):
    """A server may not send the codes that it must refuse."""
    peer, server = ends
    await server.send_all(build_close(code, mask=None))
    with pytest.raises(AssertionError):
        await peer.receive_close()


@pytest.mark.parametrize("close", [Close(None), Close(1000), Close(4999, "ü")])
async def test_a_good_close_is_received(ends: tuple[Peer, MemoryStream], close: Close):
    """Code and reason are read; an empty payload has neither."""
    peer, server = ends
    await server.send_all(build_close(close.code, close.reason.encode(), mask=None))
    assert await peer.receive_close() == close


async def test_the_end_is_an_error_where_more_was_expected(ends: tuple[Peer, MemoryStream]):
    """A frame that is cut off is told from a frame that is wrong."""
    peer, server = ends
    await server.send_all(b"\x88")
    await server.aclose()
    with pytest.raises(EndedError):
        await peer.receive_frame()


ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {SAMPLE_ACCEPT}\r\n\r\n"
)

Shake = Callable[[str], Awaitable[object]]


@pytest.fixture
def shake(ends: tuple[Peer, MemoryStream]) -> Shake:
    """Shake hands with a server that gives a fixed answer."""
    peer, server = ends

    async def run(answer: str) -> object:
        await server.send_all(answer.encode())
        return await peer.handshake()

    return run


async def test_a_good_answer_opens(shake: Shake):
    """The sample key's Accept is what a good answer holds."""
    assert KEY == b"dGhlIHNhbXBsZSBub25jZQ=="
    assert await shake(ANSWER)


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER.replace("101", "200"),
        ANSWER.replace("HTTP/1.1", "HTTP/1.0"),
        ANSWER.replace(SAMPLE_ACCEPT, SAMPLE_ACCEPT.lower()),
        ANSWER.replace("Upgrade: websocket", "Upgrade: h2c"),
        ANSWER.replace("Connection: Upgrade\r\n", ""),
        ANSWER.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n"),
        ANSWER.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["status", "version", "accept", "upgrade", "connection", "extension", "length"],
)
async def test_a_bad_answer_is_refused(shake: Shake, answer: str):
    """Every rule for a server's answer is held up."""
    with pytest.raises(AssertionError):
        await shake(answer)


async def test_octets_after_the_last_expected_are_noticed(ends: tuple[Peer, MemoryStream]):
    """A server that says more than it should does not pass for one that ends."""
    peer, server = ends
    await server.send_all(build_close(1000, mask=None) * 2)
    await server.aclose()
    assert (await peer.receive_frame()).opcode == CLOSE
    with pytest.raises(AssertionError):
        await peer.receive_eof()

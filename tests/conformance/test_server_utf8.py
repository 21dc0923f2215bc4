"""Text is UTF-8, and fails at once where it is not (RFC 6455 §8.1; items 39-41)."""

import pytest
import trio.testing

from tests.conformance.peer import BINARY, CONTINUATION, PING, PONG, TEXT, Frame, build_frame
from tests.conftest import Serve

pytestmark = [pytest.mark.usefixtures("no_tracebacks"), pytest.mark.octets]

INVALID = {
    "lone continuation": b"\x80",
    "never valid": b"\xff",
    "never valid in the middle": b"abc\xfedef",
    "first surrogate": b"\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "surrogate pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "overlong slash": b"\xc0\xaf",
    "overlong NUL": b"\xc0\x80",
    "overlong in three": b"\xe0\x80\xaf",
    "overlong in four": b"\xf0\x80\x80\xaf",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "five octets": b"\xf8\x88\x80\x80\x80",
    "lead then ASCII": b"\xe2\x82A",
    "lead then lead": b"\xc3\xc3",
    "after much ASCII": b"a" * 5000 + b"\xff",
}
TRUNCATED = {
    "two": b"\xc3",
    "three": b"ok\xe2\x82",
    "four": b"\xf0\x9f\x98",
    "long": b"x" * 99 + b"\xf0",
}
EDGES = [0x0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
"""The first and last character of each length, and both sides of the surrogates."""


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
async def test_item_39_bad_octets_are_an_invalid_payload(serve: Serve, text: bytes):
    """Text that is not UTF-8 closes with 1007."""
    served = await serve()
    peer = await served.connect()
    await peer.send_frame(TEXT, text)
    await peer.receive_failure(1007)
    await (await served.connect()).expect_echo()


@pytest.mark.parametrize("text", TRUNCATED.values(), ids=TRUNCATED)
async def test_item_39_a_truncated_character_is_an_invalid_payload(serve: Serve, text: bytes):
    """A message may not end within a character."""
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, text)
    await peer.receive_failure(1007)


@pytest.mark.parametrize("text", TRUNCATED.values(), ids=TRUNCATED)
async def test_item_39_a_truncated_character_at_the_end_of_fragments(serve: Serve, text: bytes):
    """Nor may its last fragment, even when that is empty."""
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, text, fin=False)
    await peer.send_frame(CONTINUATION, b"")
    await peer.receive_failure(1007)


async def test_item_39_the_edges_of_unicode_are_text(serve: Serve):
    """The first and last characters of every length are accepted, and echoed exactly."""
    peer = await (await serve()).connect()
    for text in ["", *map(chr, EDGES), "".join(map(chr, EDGES))]:
        await peer.expect_echo(text.encode(), TEXT)


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
async def test_item_39_binary_may_be_anything(serve: Serve, text: bytes):
    """What is no text is echoed as it is when it comes as binary."""
    await (await (await serve()).connect()).expect_echo(text, BINARY)


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
async def test_item_40_a_bad_fragment_fails_before_the_message_ends(serve: Serve, text: bytes):
    """The fragment that cannot be UTF-8 is refused, without waiting for the last."""
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, b"good so far ", fin=False)
    await peer.send_frame(CONTINUATION, text, fin=False)
    await peer.receive_failure(1007)


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
async def test_item_40_a_bad_octet_fails_before_the_frame_ends(serve: Serve, text: bytes):
    """The octet that cannot be UTF-8 is refused, without waiting for the frame's end."""
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, b"good so far " + text, declared=100_000)
    await peer.receive_failure(1007)


async def test_item_40_a_bad_octet_that_arrives_late(serve: Serve):
    """The state of the check is carried over, however the frame's octets arrive."""
    peer = await (await serve()).connect()
    frame = build_frame(TEXT, b"ab\xf4\x90", declared=1000)
    for octet in frame[:-1]:
        await peer.send(bytes([octet]))
        await trio.testing.wait_all_tasks_blocked()
    await peer.expect_nothing()

    await peer.send(frame[-1:])
    await peer.receive_failure(1007)


@pytest.mark.parametrize("cut", range(1, 10))
async def test_item_41_a_character_may_be_split_across_fragments(serve: Serve, cut: int):
    """A cut within a character is no fault, nor is a Ping in the cut."""
    text = "a€😀é".encode()
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, text[:cut], fin=False)
    await peer.send_frame(PING, b"cut")
    await peer.send_frame(CONTINUATION, text[cut:])

    assert await peer.receive_frame() == Frame(PONG, b"cut")
    assert await peer.receive_message() == Frame(TEXT, text)


async def test_item_41_every_octet_may_be_a_fragment(serve: Serve):
    """A text whose every octet is a fragment of its own, with Pings between, is accepted."""
    text = "κόσμε 😀".encode()
    peer = await (await serve()).connect()
    opcode = TEXT
    for octet in text:
        await peer.send_frame(opcode, bytes([octet]), fin=False)
        await peer.send_frame(PING)
        assert await peer.receive_frame() == Frame(PONG, b"")
        opcode = CONTINUATION
    await peer.send_frame(CONTINUATION)
    assert await peer.receive_message() == Frame(TEXT, text)

"""What a server makes of frames (RFC 6455 §5; conformance items 27-38)."""

import struct

import pytest
import trio
import trio.testing

from tests.conformance.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    build_close,
    build_frame,
)
from tests.conftest import Serve

pytestmark = [pytest.mark.usefixtures("no_tracebacks"), pytest.mark.octets]

CONTROL = [CLOSE, PING, PONG]


async def fail(serve: Serve, octets: bytes, code: int) -> None:
    """The server must answer *octets* by a Close with *code*, drop TCP, and live on."""
    served = await serve()
    peer = await served.connect()
    await peer.send(octets)
    await peer.receive_failure(code)
    await (await served.connect()).expect_echo()


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
async def test_item_27_an_unmasked_frame_is_a_protocol_error(serve: Serve, opcode: int):
    """A client masks everything that it sends (§5.1)."""
    await fail(serve, build_frame(opcode, b"\x03\xe8", mask=None), 1002)


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, PING])
async def test_item_27_a_reserved_bit_is_a_protocol_error(serve: Serve, rsv: int, opcode: int):
    """No extension was negotiated that gives the reserved bits a meaning (§5.2)."""
    await fail(serve, build_frame(opcode, b"hi", rsv=rsv), 1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
async def test_item_27_a_reserved_opcode_is_a_protocol_error(serve: Serve, opcode: int):
    """Opcodes that the RFC reserves fail the connection (§5.2)."""
    await fail(serve, build_frame(opcode, b"hi"), 1002)


@pytest.mark.parametrize("opcode", [3, 7, 11, 15])
async def test_item_27_a_fault_is_found_in_the_first_octets(serve: Serve, opcode: int):
    """A reserved opcode is refused from the header alone."""
    await fail(serve, build_frame(opcode, declared=60_000), 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("declared", [2**63, 2**63 + 5, 2**64 - 1])
async def test_item_28_a_length_with_its_top_bit_is_a_protocol_error(
    serve: Serve, declared: int, opcode: int
):
    """The top bit of a 64-bit length must be clear (§5.2), which the header alone shows."""
    await fail(serve, build_frame(opcode, declared=declared), 1002)


@pytest.mark.parametrize("declared", [2**20 + 1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62])
async def test_item_28_a_huge_length_is_too_big(serve: Serve, declared: int):
    """A length over the limit is refused from the header alone."""
    await fail(serve, build_frame(BINARY, declared=declared), 1009)


async def test_item_28_the_largest_length_is_too_big(serve: Serve):
    """2^63-1 is well-formed, and over every limit."""
    await fail(serve, build_frame(TEXT, declared=2**63 - 1), 1009)


@pytest.mark.parametrize(
    ("size", "length_size"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65_535, 8)]
)
async def test_item_29_a_length_must_be_minimal(serve: Serve, size: int, length_size: int):
    """The shortest form of a length is the only one (§5.2)."""
    await fail(serve, build_frame(BINARY, length_size=length_size, declared=size), 1002)


@pytest.mark.parametrize("opcode", CONTROL)
@pytest.mark.parametrize("size", [126, 65_536])
async def test_item_30_a_long_control_frame_is_a_protocol_error(
    serve: Serve, opcode: int, size: int
):
    """Control frames have up to 125 octets (§5.5); the header alone shows more."""
    await fail(serve, build_frame(opcode, declared=size), 1002)


@pytest.mark.parametrize("opcode", CONTROL)
async def test_item_30_a_fragmented_control_frame_is_a_protocol_error(serve: Serve, opcode: int):
    """Control frames come whole (§5.5)."""
    await fail(serve, build_frame(opcode, b"\x03\xe8", fin=False), 1002)


@pytest.mark.parametrize("fin", [True, False])
async def test_item_31_a_stray_continuation_is_a_protocol_error(serve: Serve, *, fin: bool):
    """There is no message that it could continue (§5.4)."""
    await fail(serve, build_frame(CONTINUATION, b"hi", fin=fin), 1002)


async def test_item_31_a_continuation_after_the_end_is_a_protocol_error(serve: Serve):
    """A message that ended cannot be continued (§5.4)."""
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, b"a", fin=False)
    await peer.send_frame(CONTINUATION, b"b")
    assert await peer.receive_message() == Frame(TEXT, b"ab")

    await peer.send_frame(CONTINUATION, b"c")
    await peer.receive_failure(1002)


@pytest.mark.parametrize("first", [TEXT, BINARY])
@pytest.mark.parametrize("second", [TEXT, BINARY])
async def test_item_31_a_message_inside_a_message_is_a_protocol_error(
    serve: Serve, first: int, second: int
):
    """Messages do not interleave (§5.4)."""
    octets = build_frame(first, b"a", fin=False) + build_frame(second, b"b")
    await fail(serve, octets, 1002)


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))], ids=["0", "1", "125"])
async def test_item_32_a_ping_between_fragments_is_answered_first(serve: Serve, payload: bytes):
    """The Pong has the Ping's payload, and does not wait for the message (§5.5.2)."""
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, b"frag", fin=False)
    await peer.send_frame(PING, payload)
    assert await peer.receive_frame() == Frame(PONG, payload)

    await peer.send_frame(CONTINUATION, b"ments")
    assert await peer.receive_message() == Frame(TEXT, b"fragments")


async def test_item_32_ping_and_message_in_one_write(serve: Serve):
    """The same holds when everything arrives at once."""
    peer = await (await serve()).connect()
    fragments = build_frame(BINARY, b"a", fin=False), build_frame(CONTINUATION, b"b")
    await peer.send(fragments[0] + build_frame(PING, b"now") + fragments[1])

    assert await peer.receive_frame() == Frame(PONG, b"now")
    assert await peer.receive_message() == Frame(BINARY, b"ab")


@pytest.mark.parametrize("payload", [b"", b"unasked", b"x" * 125])
async def test_item_33_an_unsolicited_pong_is_ignored(serve: Serve, payload: bytes):
    """A Pong that answers nothing has no effect (§5.5.3)."""
    peer = await (await serve()).connect()
    await peer.send_frame(PONG, payload)
    await peer.expect_echo()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_item_34_empty_fragments_make_an_empty_message(serve: Serve, opcode: int):
    """2,000 fragments without an octet are one message without an octet."""
    peer = await (await serve()).connect()
    await peer.send(
        build_frame(opcode, fin=False)
        + build_frame(CONTINUATION, fin=False) * 1998
        + build_frame(CONTINUATION)
    )
    assert await peer.receive_message() == Frame(opcode, b"")


STREAM = (
    build_frame(TEXT, "grüß".encode(), fin=False)
    + build_frame(PING, b"in between")
    + build_frame(CONTINUATION, b"", fin=False)
    + build_frame(CONTINUATION, " dich ✓".encode())
    + build_frame(BINARY, b"")
    + build_frame(BINARY, bytes(200))
)
REPLIES = [
    Frame(PONG, b"in between"),
    Frame(TEXT, "grüß dich ✓".encode()),
    Frame(BINARY, b""),
    Frame(BINARY, bytes(200)),
]


async def test_item_35_a_split_at_any_octet_changes_nothing(serve: Serve):
    """Wherever a stream of frames is cut in two, the replies are the same."""
    peer = await (await serve()).connect()
    for cut in range(1, len(STREAM)):
        await peer.send(STREAM[:cut])
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(STREAM[cut:])
        assert [await peer.receive_frame() for _ in REPLIES] == REPLIES, cut


async def test_item_35_single_octets_change_nothing(serve: Serve):
    """A stream that arrives octet by octet has the same replies."""
    peer = await (await serve()).connect()
    await peer.send_octet_by_octet(STREAM)
    assert [await peer.receive_frame() for _ in REPLIES] == REPLIES


async def test_item_35_many_frames_in_one_write_keep_their_order(serve: Serve):
    """2,000 messages that arrive together are answered one by one, in order."""
    peer = await (await serve()).connect()
    messages = [b"message %d" % number for number in range(2000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, b"".join(build_frame(TEXT, text) for text in messages))
        for text in messages:
            assert await peer.receive_message() == Frame(TEXT, text)


SIZES = [*range(9), 31, 32, 33, 125, 126, 127, 65_535, 65_536, 65_537]


@pytest.mark.parametrize("mask", [bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01", b"\x80\x7f\x00\xff"])
async def test_item_36_masks_and_lengths(serve: Serve, mask: bytes):
    """Every mask is undone, at every length where something changes."""
    peer = await (await serve()).connect()
    for size in SIZES:
        payload = bytes(number % 251 for number in range(size))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, build_frame(BINARY, payload, mask=mask))
            assert await peer.receive_message() == Frame(BINARY, payload)


async def test_item_36_masks_may_change_within_a_message(serve: Serve):
    """Each fragment is unmasked with its own mask, from its own first octet (§5.3)."""
    peer = await (await serve()).connect()
    await peer.send_frame(BINARY, b"abc", fin=False, mask=b"\x01\x02\x03\x04")
    await peer.send_frame(CONTINUATION, b"defgh", fin=False, mask=bytes(4))
    await peer.send_frame(CONTINUATION, b"ijk", mask=b"\xff" * 4)
    assert await peer.receive_message() == Frame(BINARY, b"abcdefghijk")


@pytest.mark.parametrize("size", SIZES[-6:])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_item_37_output_is_unmasked_minimal_and_plain(serve: Serve, opcode: int, size: int):
    """One whole frame, no mask, the shortest length, reserved bits clear (§5.1, §5.2)."""
    peer = await (await serve()).connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, build_frame(opcode, b"x" * size))
        assert await peer.receive_frame() == Frame(opcode, b"x" * size)


async def test_item_37_control_output_is_plain(serve: Serve):
    """Pong and Close keep to the same rules."""
    peer = await (await serve()).connect()
    await peer.send_frame(PING, b"p" * 125)
    assert await peer.receive_frame() == Frame(PONG, b"p" * 125)

    await peer.send(build_close(1000, b"r" * 123))
    await peer.receive_close()


async def test_item_38_many_pings_are_bounded(serve: Serve):
    """10,000 Pings from a peer that reads nothing yet: the last is answered, all is in step."""
    peer = await (await serve()).connect()
    pings = [struct.pack("!I", number) + bytes(96) for number in range(10_000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, b"".join(build_frame(PING, ping) for ping in pings))
        await trio.testing.wait_all_tasks_blocked(0.01)
        pongs = [await peer.receive_frame()]
        while pongs[-1].payload != pings[-1]:
            pongs.append(await peer.receive_frame())

    assert {pong.opcode for pong in pongs} == {PONG}
    numbers = [struct.unpack("!I", pong.payload[:4])[0] for pong in pongs]
    assert numbers == sorted(set(numbers))
    await peer.expect_echo()

"""What a server holds for a peer is bounded (conformance items 54 and 55)."""

import math

import pytest
import trio

import triows
from tests.conformance.peer import BINARY, CONTINUATION, TEXT, Frame, build_frame
from tests.conftest import Serve

pytestmark = pytest.mark.usefixtures("no_tracebacks")

SMALL = triows.Limits(max_message=1000)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [1001, 70_000])
async def test_item_54_an_announced_size_over_the_limit_is_too_big(
    serve: Serve, opcode: int, size: int
):
    """The header alone is enough to be refused."""
    peer = await (await serve(limits=SMALL)).connect()
    await peer.send_frame(opcode, declared=size)
    await peer.receive_failure(1009)


async def test_item_54_the_sum_of_fragments_over_the_limit_is_too_big(serve: Serve):
    """The header of the fragment that would exceed the limit is enough to be refused."""
    peer = await (await serve(limits=SMALL)).connect()
    await peer.send_frame(BINARY, b"x" * 600, fin=False)
    await peer.send_frame(CONTINUATION, declared=401)
    await peer.receive_failure(1009)


async def test_item_54_the_exact_limit_passes(serve: Serve):
    """The limit is the largest message accepted, whole or in fragments, and again and again."""
    peer = await (await serve(limits=SMALL)).connect()
    await peer.expect_echo(b"x" * 1000)
    await peer.send_frame(TEXT, b"a" * 600, fin=False)
    await peer.send_frame(CONTINUATION, b"b" * 400, fin=False)
    await peer.send_frame(CONTINUATION)
    assert await peer.receive_message() == Frame(TEXT, b"a" * 600 + b"b" * 400)
    await peer.expect_echo(b"x" * 1000)


async def test_item_54_the_default_limit_passes(serve: Serve):
    """By default a message may have 1 MiB."""
    peer = await (await serve()).connect()
    payload = bytes(2**20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, build_frame(BINARY, payload))
        assert await peer.receive_message() == Frame(BINARY, payload)


async def test_item_54_the_limit_on_fragments_holds(serve: Serve):
    """As many fragments as allowed pass; one more is refused."""
    peer = await (await serve(limits=triows.Limits(max_fragments=5))).connect()
    five = build_frame(BINARY, b"1", fin=False) + build_frame(CONTINUATION, b"2", fin=False) * 3
    await peer.send(five + build_frame(CONTINUATION, b"3"))
    assert await peer.receive_message() == Frame(BINARY, b"12223")

    await peer.send(five + build_frame(CONTINUATION, b"2", fin=False) * 2)
    await peer.receive_failure(1009)


ONE_OCTET = build_frame(CONTINUATION, b"x", fin=False)


async def send_fragments(peer, count: int) -> None:
    """Send the beginning of a message and *count* fragments of one octet, in blocks."""
    try:
        await peer.send_frame(BINARY, fin=False)
        for _ in range(count // 1000):
            await peer.send(ONE_OCTET * 1000)
    except trio.BrokenResourceError:
        pass


async def test_item_55_too_many_tiny_fragments_are_refused(serve: Serve):
    """By default a message may come in 65,536 fragments; 200,000 are refused on the way."""
    peer = await (await serve()).connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_fragments, peer, 200_000)
        assert (await peer.receive_close()).code == 1009
        await peer.receive_end()


@pytest.mark.timed
async def test_item_55_tiny_fragments_take_bounded_memory(serve: Serve):
    """200,000 fragments of one octet cost what their octets cost, not 200,000 objects."""
    limits = triows.Limits(max_fragments=300_000, message_timeout=math.inf)
    served = await serve(limits=limits)
    peer = await served.connect()
    with served.wire.measured() as memory:
        await send_fragments(peer, 200_000)

    assert memory.peak < 4 * 2**20
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.send, build_frame(CONTINUATION, b"."))
        assert await peer.receive_message() == Frame(BINARY, b"x" * 200_000 + b".")

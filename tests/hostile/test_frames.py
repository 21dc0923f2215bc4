"""What a server withstands from an open WebSocket's peer (threat model, items 11-15, 17, 18)."""

import contextlib
import random

import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    EndedError,
    Frame,
    Peer,
    build_close,
    build_frame,
)
from tests.conftest import Serve

pytestmark = [pytest.mark.usefixtures("no_tracebacks"), pytest.mark.timed]

MIB = 2**20


async def pour(peer: Peer, block: bytes, times: int) -> None:
    """Send *block* again and again, until the server has had enough."""
    try:
        for _ in range(times):
            await peer.send(block)
    except trio.BrokenResourceError:
        pass


async def test_item_11_a_message_in_pieces_takes_no_more_than_twice_the_memory(serve: Serve):
    """A message that dribbles in costs what the same message costs whole."""
    served = await serve()
    octets = build_frame(BINARY, bytes(60_000))
    peaks = []
    for step in (len(octets), 7):
        peer = await served.connect()
        with served.wire.measured() as memory:
            for start in range(0, len(octets), step):
                await peer.send(octets[start : start + step])
            await peer.receive_message()
        peaks.append(memory.peak)

    whole, in_pieces = peaks
    assert in_pieces <= 2 * whole


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (build_frame(BINARY, declared=2**63 - 1), 1009),
        (build_frame(BINARY, declared=2**63), 1002),
        (build_frame(BINARY, declared=2**64 - 1), 1002),
        (build_frame(BINARY, declared=MIB, length_size=8)[:2] + bytes(8) + b"mask", 1002),
    ],
    ids=["2^63-1", "2^63", "2^64-1", "not minimal"],
)
async def test_item_12_a_bad_length_reserves_nothing(serve: Serve, frame: bytes, code: int):
    """A length that is refused is refused before any memory is asked for."""
    served = await serve()
    peer = await served.connect()
    with served.wire.measured() as memory:
        await peer.send(frame)
        close = await peer.receive_close()

    assert close.code == code
    assert memory.peak < MIB / 4


async def test_item_12_an_announced_length_reserves_nothing(serve: Serve):
    """A hundred peers that announce 1 MiB and send one octet do not cost 100 MiB."""
    served = await serve()
    *peers, last = [await served.connect() for _ in range(101)]
    with served.wire.measured() as memory:
        for peer in peers:
            await peer.send_frame(BINARY, b"x", declared=MIB)
        await last.expect_echo()  # its turn comes after theirs

    assert memory.peak < 20 * MIB


BAD_FRAMES = {
    "rsv1": build_frame(TEXT, b"a", rsv=4),
    "rsv1 on ping": build_frame(PING, rsv=4),
    "opcode 3": build_frame(3),
    "opcode 11": build_frame(11),
    "not masked": build_frame(TEXT, b"a", mask=None),
    "fragmented ping": build_frame(PING, fin=False),
    "long ping": build_frame(PING, bytes(126)),
    "stray continuation": build_frame(CONTINUATION, b"a"),
}


@pytest.mark.parametrize("bad", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_item_13_a_bad_frame_fails_its_connection_alone(serve: Serve, bad: bytes):
    """The messages before it were delivered, those behind it are not, and others go on."""
    seen: list[str | bytes] = []

    async def listen(ws: triows.WebSocket) -> None:
        seen.extend([message async for message in ws])

    served = await serve(listen)
    bystander = await served.connect()
    peer = await served.connect()
    await peer.send(build_frame(TEXT, b"good") + bad + build_frame(TEXT, b"never"))
    await peer.receive_failure(1002)
    await bystander.send_frame(PING, b"alive")

    assert await bystander.receive_frame() == Frame(PONG, b"alive")
    assert seen in ([], ["good"])


@pytest.mark.parametrize("seed", range(20))
async def test_item_13_random_octets_always_lead_to_an_end(serve: Serve, seed: int):
    """Whatever octets come, the server answers by the rules, ends, and serves others."""
    noise = random.Random(seed)
    served = await serve(limits=triows.Limits(message_timeout=5.0, close_timeout=1.0))
    for _ in range(10):
        peer = await served.connect()
        octets = bytearray(build_frame(TEXT, b"seed") * 3 + noise.randbytes(200))
        for _ in range(noise.randrange(4)):
            octets[noise.randrange(len(octets))] ^= 1 << noise.randrange(8)
        await pour(peer, bytes(octets), 1)
        await peer.end()
        with contextlib.suppress(EndedError):
            while (await peer.receive_frame()).opcode != CLOSE:
                pass
        await peer.receive_end()
    await (await served.connect()).expect_echo()


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one octet"])
@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
async def test_item_14_tiny_fragments_without_end_are_refused(
    serve: Serve, payload: bytes, count: int
):
    """However small its fragments, a message has only so many of them."""
    served = await serve()
    peer = await served.connect()
    await peer.send_frame(BINARY, fin=False)
    block = build_frame(CONTINUATION, payload, fin=False) * 1000
    with served.wire.measured() as memory:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, peer, block, count // 1000)
            assert (await peer.receive_close()).code == 1009
            await peer.receive_end()

    assert memory.peak < 4 * MIB


@pytest.mark.parametrize(
    "begun",
    [
        build_frame(BINARY, b"begun", declared=1000),
        build_frame(TEXT, b"begun", fin=False),
        b"\x82\xfe",
    ],
    ids=["frame", "message", "header"],
)
async def test_item_14_a_message_that_never_ends_has_a_deadline(serve: Serve, begun: bytes):
    """A message has so many seconds from its first octet; its peer's life is no excuse."""
    served = await serve(limits=triows.Limits(message_timeout=5.0))
    peer = await served.connect()
    await trio.sleep(3)
    start = trio.current_time()
    await peer.send(begun)

    assert (await peer.receive_close()).code == 1008
    assert 5 <= trio.current_time() - start <= 5.5 + served.wire.lateness


async def test_item_14_progress_does_not_move_the_deadline(serve: Serve):
    """A peer that adds an octet now and then has no more time than one that does not."""
    served = await serve(limits=triows.Limits(message_timeout=5.0))
    peer = await served.connect()
    start = trio.current_time()

    async def dribble() -> None:
        await peer.send_frame(BINARY, b"b", fin=False)
        while True:
            await trio.sleep(0.5)
            await pour(peer, build_frame(CONTINUATION, b"d", fin=False), 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        close = await peer.receive_close()
        nursery.cancel_scope.cancel()

    assert close.code == 1008
    assert 5 <= trio.current_time() - start <= 5.5 + served.wire.lateness


async def test_item_14_a_message_in_time_starts_the_clock_anew(serve: Serve):
    """The deadline is a message's, not a connection's."""
    peer = await (await serve(limits=triows.Limits(message_timeout=5.0))).connect()
    for _ in range(3):
        await peer.send_frame(BINARY, b"a", fin=False)
        await trio.sleep(4)
        await peer.send_frame(CONTINUATION, b"b")
        assert await peer.receive_message() == Frame(BINARY, b"ab")
    await trio.sleep(15)
    await peer.expect_echo()


async def test_item_14_incomplete_octets_are_capped_across_the_server(serve: Serve):
    """When all unfinished messages together exceed the cap, the one that would is closed."""
    limits = triows.Limits(max_incomplete=100_000)
    served = await serve(limits=limits)
    peers = [await served.connect() for _ in range(5)]
    for peer in peers[:4]:
        await peer.send_frame(BINARY, bytes(24_000), fin=False)
        await trio.testing.wait_all_tasks_blocked()
    await peers[4].send_frame(BINARY, bytes(24_000), fin=False)
    assert (await peers[4].receive_close()).code == 1013

    for peer in peers[:4]:
        await peer.send_frame(CONTINUATION)
        assert await peer.receive_message() == Frame(BINARY, bytes(24_000))


@pytest.mark.parametrize("ending", ["finish", "close", "cut"])
async def test_item_14_the_cap_is_given_back(serve: Serve, ending: str):
    """However an unfinished message ends, what it held counts no more."""
    served = await serve(limits=triows.Limits(max_incomplete=50_000))
    bystander = await served.connect()
    for _ in range(5):
        peer = await served.connect()
        await peer.send_frame(BINARY, bytes(40_000), fin=False)
        await bystander.expect_echo()  # its turn comes after the frame's
        if ending == "finish":
            await peer.send_frame(CONTINUATION)
            await peer.receive_message()
        elif ending == "close":
            await peer.send(build_close(1000))
            await peer.receive_close()
        else:
            peer.reset()
            await trio.testing.wait_all_tasks_blocked()
            await bystander.expect_echo()  # its turn comes after the end's
    peer = await served.connect()
    await peer.send_frame(BINARY, bytes(40_000), fin=False)
    await peer.send_frame(CONTINUATION)
    await peer.receive_message()


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
async def test_item_15_a_ping_flood_from_a_deaf_peer_takes_bounded_memory(serve: Serve, count: int):
    """Pongs that no one reads are coalesced, or the flood is no longer read."""
    served = await serve()
    peer = await served.connect()
    block = build_frame(PING, bytes(125)) * 1000
    with served.wire.measured() as memory, trio.move_on_after(5):
        await pour(peer, block, count // 1000)

    assert memory.peak < 2 * MIB


async def test_item_15_a_ping_flood_does_not_stop_others(serve: Serve):
    """While one peer floods, another is served."""
    served = await serve()
    flooder, bystander = await served.connect(), await served.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, flooder, build_frame(PING, bytes(125)) * 1000, 50)
        for _ in range(20):
            await bystander.expect_echo()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
async def test_item_15_unsolicited_pongs_leave_no_trace(serve: Serve, count: int):
    """Pongs that answer nothing are forgotten at once."""
    served = await serve()
    peer = await served.connect()
    block = build_frame(PONG, b"unsolicited") * 1000
    with served.wire.measured() as memory:
        await pour(peer, block, count // 1000)
        await peer.expect_echo()

    assert memory.peak < 2 * MIB


@pytest.mark.parametrize("seed", range(10))
async def test_item_17_text_is_judged_as_python_judges_it(serve: Serve, seed: int):
    """Random octets that are nearly UTF-8 are echoed, or closed with 1007."""
    noise = random.Random(seed)
    served = await serve()
    peer = await served.connect()
    for _ in range(40):
        octets = bytearray("".join(noise.choices("aé€😀\U0010ffff", k=6)).encode())
        for _ in range(noise.randrange(3)):
            octets[noise.randrange(len(octets))] = noise.choice(b"\x00\x80\xbf\xc0\xe0\xed\xf4\xff")
        try:
            bytes(octets).decode()
        except UnicodeDecodeError:
            await peer.send_frame(TEXT, bytes(octets))
            await peer.receive_failure(1007)
            peer = await served.connect()
        else:
            await peer.expect_echo(bytes(octets), TEXT)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (build_close(999), 1002),
        (build_close(1005), 1002),
        (build_frame(CLOSE, b"\x03"), 1002),
        (build_close(1000, bytes(124)), 1002),
        (build_close(1000, b"\xff"), 1007),
    ],
    ids=["999", "1005", "one octet", "124 octets", "not UTF-8"],
)
async def test_item_18_a_bad_close_is_answered_once(serve: Serve, bad: bytes, code: int):
    """The fault is named in one Close, and frames behind it change nothing."""
    peer = await (await serve()).connect()
    await peer.send(bad + build_frame(PING, b"late") + build_close(1000))
    assert (await peer.receive_close()).code == code
    assert await peer.receive_end() == b""


async def test_item_18_the_handler_sees_the_code_of_the_peer(serve: Serve):
    """A Close with an application's code breaks the channel with that code and reason."""
    seen: list[Close] = []

    async def listen(ws: triows.WebSocket) -> None:
        try:
            await ws.receive()
        except triows.ConnectionBroken as error:
            seen.append(Close(error.code, error.reason))
            raise

    peer = await (await serve(listen)).connect()
    await peer.send(build_close(4321, b"tired"))
    assert (await peer.receive_close()).code == 4321
    await peer.receive_eof()
    assert seen == [Close(4321, "tired")]

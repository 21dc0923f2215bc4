"""What the reactor itself withstands (threat model, items 11, 15, 20, 26, 28 and 36).

The suites beside this one run over the reactor too; here is what concerns its turns, slots
and clocks. Where time must pass, it is the loop's memory of when things were that moves.
"""

import contextlib
import itertools
import os
import socket
import time

import pytest
import trio
from numba.core.errors import NumbaError, UnsupportedBytecodeError

import triows
from tests.conformance.peer import PING, PONG, TEXT, Close, Frame, Peer, build_close, build_frame
from tests.conformance.transports import REACTOR_WIRES
from tests.conftest import Serve, Served
from tests.unit.test_turn import BINARY, CLOSE, Pair, drain, frames, is_over, masked
from triows import Limits, Response
from triows._kernels import slots as s
from triows._kernels._registry import JIT

over_reactors = pytest.mark.parametrize("wire", REACTOR_WIRES, indirect=True)


@pytest.fixture
def start():
    """Make loops, and close them in the end."""
    pairs = []

    def make(*args, **options):
        pairs.append(Pair(*args, **options))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


@pytest.mark.parametrize("step", [7, 100, 5_000])
def test_item_11_a_message_in_pieces_holds_at_most_twice_its_octets(start, step):
    """At no moment has an unfinished message a block of more than twice its octets when whole."""
    pair = start()
    client = pair.connect()
    octets = masked(BINARY, bytes(60_000))
    for sent in range(step, len(octets), step):
        client.send(octets[sent - step : sent])
        pair.turn(1)

        assert pair.loop._slots[0, s.MESSAGE_ROOM] <= 2 * 60_000
        assert pair.loop._slots[0, s.MESSAGE_STORED] <= sent

    pair.talk(client, octets[sent:])
    assert pair.loop._slots[0, s.MESSAGE_ROOM] == 0


# Item 15: floods of control frames.


async def flood(peer: Peer, octets: bytes) -> None:
    """Send *octets* for as long as they are taken."""
    with contextlib.suppress(trio.BrokenResourceError):
        await peer.stream.send_all(octets)


async def connect_deaf(served: Served) -> Peer:
    """A peer into whose socket little fits, so that what is sent to it soon has to wait."""
    raw = trio.socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    await raw.connect(("127.0.0.1", served.server.port))
    stream = trio.SocketStream(raw)
    served.wire.connections.append(stream)
    peer = Peer(stream)
    await peer.handshake()
    return peer


@over_reactors
async def test_item_15_ping_floods_are_queued_to_the_mark_and_no_further(serve: Serve):
    """Twenty deaf flooders have a queue each of the mark and one receive; another is served."""
    limits = Limits(send_queue_octets=10_000)
    served = await serve(limits=limits)
    deaf = [await connect_deaf(served) for _ in range(20)]
    bystander = await served.connect()
    octets = build_frame(PING, bytes(125)) * 60_000
    async with trio.open_nursery() as nursery:
        for peer in deaf:
            nursery.start_soon(flood, peer, octets)
        for _ in range(200):
            await bystander.expect_echo()
        with trio.fail_after(10):
            while not served.server.statistics().total.queued_octets:
                await bystander.expect_echo()

        assert served.server.statistics().total.queued_octets <= 20 * (10_000 + s.RECEIVE_SIZE)
        nursery.cancel_scope.cancel()


@over_reactors
async def test_item_15_a_flooder_that_reads_at_last_gets_pongs_in_order(serve: Serve):
    """64 KiB of Pongs wait for it; of the Pings after them some are answered, and the last."""
    served = await serve()
    peer = await connect_deaf(served)
    pings = [number.to_bytes(4, "big") + bytes(121) for number in range(8_000)]
    answered: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood, peer, b"".join(build_frame(PING, ping) for ping in pings))
        with trio.fail_after(10):
            while not served.server.statistics().total.queued_octets:
                await (await served.connect()).expect_echo()
        while answered[-1:] != [7_999]:
            frame = await peer.receive_frame()
            answered.append(int.from_bytes(frame.payload[:4], "big"))
            assert frame == Frame(PONG, pings[answered[-1]])

    assert answered[:500] == list(range(500))
    assert answered == sorted(set(answered))
    await peer.expect_echo()
    assert served.server.statistics().total.queued_octets == 0


def test_item_15_a_million_pongs_hang_nothing_on_the_connection(start):
    """Unsolicited Pongs leave a slot as they found it."""
    pair = start()
    client = pair.connect()
    count = 1_000_000 if JIT else 10_000
    block = masked(PONG, b"unasked") * 1_000
    for _ in range(count // 1_000):
        assert pair.talk(client, block) == b""

    row = pair.loop._slots[0]
    assert not any(row[[s.CARRY, s.MESSAGE, s.QUEUE]])
    assert pair.register(s.FRAMES_IN) == count
    assert frames(pair.talk(client, masked(TEXT, b"here"))) == [(TEXT, b"here")]


# Item 20: how connections end.


@triows.compiled
def leave(payload, opcode):
    """Close the connection."""
    return Response.CLOSE


@pytest.mark.parametrize("threads", [0, 1])
async def test_item_20_both_close_at_once_over_the_reactor(threads: int):
    """Close frames that cross are one closing handshake: one Close each, and the end."""
    async with triows.open_reactor(leave, threads=threads) as reactor:
        (address,) = await reactor.listen(0)
        for theirs in (build_close(3002, b"theirs"), build_close()):
            peer = Peer(await trio.open_tcp_stream(*address))
            await peer.handshake()
            await peer.send(build_frame(TEXT, b"go") + theirs)

            assert await peer.receive_close() == Close(1000)
            await peer.receive_eof()
            await peer.aclose()
        assert reactor.statistics().total.failures == 0


@pytest.mark.parametrize("threads", [0, 1])
async def test_item_20_a_close_that_crosses_the_shutdown(threads: int):
    """A peer that closes as the reactor is left hears one Close, its own or 1001."""
    peers = []
    async with triows.open_reactor(threads=threads) as reactor:
        (address,) = await reactor.listen(0)
        for _ in range(20):
            peers.append(Peer(await trio.open_tcp_stream(*address)))
            await peers[-1].handshake()
        for peer in peers:
            await peer.send(build_close(3002))
    for peer in peers:
        assert (await peer.receive_close()).code in {1001, 3002}
        assert await peer.receive_end() == b""
        await peer.aclose()


@pytest.mark.parametrize("threads", [0, 1])
async def test_item_20_a_half_open_peer_is_dropped_by_the_reactor(threads: int):
    """A peer that answers no Ping is gone after interval and timeout, and not before."""
    keepalive = triows.KeepAlive(interval=0.1, timeout=0.1)
    async with triows.open_reactor(threads=threads, keepalive=keepalive) as reactor:
        (address,) = await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream(*address))
        await peer.handshake()
        begin = trio.current_time()

        assert await peer.receive_frame() == Frame(PING, b"")
        assert await peer.receive_end() == b""
        assert trio.current_time() - begin >= 0.2 - 0.02  # it was heard before this clock began
        await peer.aclose()


def test_item_20_any_octet_is_a_sign_of_life_to_the_turn(start):
    """A peer whose frame is slow to arrive is not half-open."""
    pair = start(keepalive=triows.KeepAlive(interval=20, timeout=10), limits=Limits(max_message=9))
    pair.loop._registers[s.MESSAGE_TIMEOUT] = 2**60
    client = pair.connect()
    reply = b""
    for octet in masked(BINARY, b"slow"):
        reply += pair.talk(client, bytes([octet]))
        pair.shift(19)
        reply += drain(client)

    assert frames(reply) == [(BINARY, b"slow")]


def test_item_20_pongs_keep_a_quiet_connection(start):
    """A peer that answers each Ping is pinged again and again, and stays."""
    pair = start(keepalive=triows.KeepAlive(interval=20, timeout=10))
    client = pair.connect()
    for _ in range(10):
        pair.shift(29)
        assert frames(pair.hear(client)) == [(PING, b"")]
        pair.talk(client, masked(PONG))

    assert not is_over(client)


def test_item_20_resets_at_every_octet_end_their_own_connection(start):
    """Whatever was under way when a connection was cut, nothing of it is left."""
    pair = start()
    bystander = pair.connect()
    stream = masked(TEXT, b"be", fin=False) + masked(PING, b"ping") + masked(0, b"gun")
    for cut in range(len(stream)):
        client = pair.connect()
        pair.talk(client, stream[:cut])
        client.close()
        pair.turn()

        assert pair.register(s.CONNECTIONS) == 1
        assert pair.register(s.INCOMPLETE) == pair.register(s.QUEUED) == 0
    assert frames(pair.talk(bystander, masked(TEXT, b"here"))) == [(TEXT, b"here")]


# Item 26: what epoll said of a descriptor that is no longer the same.


def test_item_26_an_event_of_a_closed_descriptor_reaches_no_successor(start):
    """Within one batch a connection ends; another gets its slot and its descriptor's number."""
    pair = start(keepalive=triows.KeepAlive(interval=20, timeout=10))
    clients = [pair.connect() for _ in range(16)]
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    pair.clients.append(ours)
    pair.loop._registers[s.BUDGET] = -1  # a turn serves four events, and leaves the others
    pair.loop._slots[15, s.IS_PINGING] = 1
    pair.loop._slots[15, s.HEARD] = 0
    pair.loop._registers[s.NEXT_SWEEP] = 0
    number = int(pair.loop._slots[15, s.DESCRIPTOR])
    for client in clients:
        client.send(masked(TEXT, b"old"))
    assert pair.loop.take_turns(0, 1) == 4
    assert pair.loop.has_events
    assert is_over(clients[15])

    os.dup2(theirs.fileno(), number)
    theirs.close()
    pair.loop.add(number)
    assert pair.loop._slots[15, s.DESCRIPTOR] == number
    receives = pair.register(s.RECEIVES)
    pair.loop._registers[s.NEXT_SWEEP] = pair.loop._registers[s.BUDGET] = 2**60
    assert pair.loop.take_turns(0, 1) == 12

    assert pair.register(s.RECEIVES) == receives + 11
    assert drain(ours) == b""
    assert frames(pair.talk(ours, masked(TEXT, b"new"))) == [(TEXT, b"new")]


def test_item_26_a_descriptor_that_another_process_holds_sends_no_events(start):
    """An ended connection is gone from epoll, even where its socket lives on elsewhere."""
    pair = start()
    client = pair.connect()
    held = os.dup(int(pair.loop._slots[0, s.DESCRIPTOR]))  # as a forked child would
    try:
        assert frames(pair.talk(client, masked(CLOSE))) == [(CLOSE, b"")]
        assert pair.register(s.CONNECTIONS) == 0
        client.send(b"phantom")

        assert pair.loop.take_turns(0, 1) == 0
        assert not pair.loop.has_events
    finally:
        os.close(held)


# Item 28: the clocks.


def test_item_28_the_turn_reads_the_clock_that_no_one_can_set(start):
    """Its time is the monotonic one, to the nanosecond, and no wall clock's."""
    pair = start()
    pair.connect()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    pair.loop.take_turns(0, 1)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    assert before <= pair.register(s.NOW) <= after
    assert before - 10**9 <= pair.loop._slots[0, s.HEARD] <= before


async def test_item_28_a_jump_of_the_wall_clock_changes_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    """Where the wall clock jumps by days, no one is pinged, dropped or told that it is late."""
    served = await serve()
    peer = await served.connect()
    await peer.send_frame(TEXT, b"half", fin=False)
    for days, clock in itertools.product((400, -400, 20_000), ("time", "time_ns")):
        real = getattr(time, clock)
        unit = 10**9 if clock == "time_ns" else 1
        monkeypatch.setattr(time, clock, lambda real=real, by=days * 86_400 * unit: real() + by)
        await (await served.connect()).expect_echo()
    await peer.send_frame(0, b"done")

    assert await peer.receive_message() == Frame(TEXT, b"halfdone")


# Item 36: a payload is good until the handler returns.

kept = []


def keep_in_a_list(payload, opcode):
    """Append the payload to a list of the module's."""
    kept.append(payload)
    return 1


def keep_as_a_global(payload, opcode):
    """Make the payload a global of the module."""
    global latest  # noqa: PLW0603 - what is tested
    latest = payload
    return 1


def keep_on_an_object(payload, opcode):
    """Make the payload an attribute."""
    keep_on_an_object.latest = payload
    return 1


def return_it(payload, opcode):
    """Return the payload."""
    return payload


KEEPERS = [keep_in_a_list, keep_as_a_global, keep_on_an_object, return_it]


@pytest.mark.skipif(not JIT, reason="what is not compiled may keep what it likes")
@pytest.mark.parametrize("keep", KEEPERS, ids=lambda keep: keep.__name__)
async def test_item_36_a_handler_that_would_keep_its_payload_is_no_compiled_one(keep):
    """It is refused before anything listens: what is compiled has nowhere to keep a view."""
    with pytest.raises((NumbaError, UnsupportedBytecodeError)):
        async with triows.open_reactor(triows.compiled(keep)):
            pytest.fail("the reactor runs")


def test_item_36_a_payload_is_overwritten_once_its_handler_has_returned(start):
    """As documented, the octets behind a payload are the next receive's."""
    pair = start()
    client = pair.connect()
    pair.talk(client, masked(TEXT, b"secret of one"))
    view = pair.loop._region[s.HEADROOM + 6 : s.HEADROOM + 19]
    assert view.tobytes() == b"secret of one"
    pair.talk(pair.connect(), masked(TEXT, b"word of other"))

    assert view.tobytes() == b"word of other"
    assert "valid" in triows.compiled.__doc__
    assert "until it returns" in triows.compiled.__doc__

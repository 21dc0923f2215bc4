"""`BroadcastChannel.attach`: what is published is sent to WebSockets, over each driver."""

import contextlib
import gc
import random
import socket

import attrs
import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import BINARY, CLOSE, CONTINUATION, TEXT, Frame, Peer
from triows import BroadcastChannel, Capacity, Delivery, Policy, PreparedMessage

PATIENCE = 10.0
LARGE = 40_000
"""Octets of a message; some of them fill what the kernel keeps for a peer that does not read."""


@attrs.define(eq=False)
class Party:
    """A server that attaches those who come to nothing, and hands out both ends."""

    driver: str
    server: triows.Server
    arrivals: trio.MemoryReceiveChannel
    peers: list[Peer] = attrs.field(factory=list)

    async def meet(self, *, is_small: bool = False) -> tuple[triows.WebSocket, Peer]:
        """Both ends of a new connection; a *small* one holds few octets under way."""
        ends = socket.socket()
        if is_small:
            ends.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        ends.setblocking(False)
        sock = trio.socket.from_stdlib_socket(ends)
        await sock.connect(("127.0.0.1", self.server.port))
        peer = Peer(trio.SocketStream(sock), PATIENCE)
        self.peers.append(peer)
        await peer.handshake()
        return await self.arrivals.receive(), peer


@pytest.fixture(params=["stream", "reactor"])
async def party(request, warm, nursery):
    """A server, over each driver."""
    offer, arrivals = trio.open_memory_channel(100)

    async def host(ws):
        offer.send_nowait(ws)
        await trio.sleep_forever()

    async def start(*, task_status):
        await triows.serve(
            host, 0, driver=request.param, shutdown_grace=0.1, task_status=task_status
        )

    party = Party(request.param, await nursery.start(start), arrivals)
    with trio.fail_after(3 * PATIENCE):
        yield party
    for peer in party.peers:
        await trio.aclose_forcefully(peer.stream)
    nursery.cancel_scope.cancel()


async def settle():
    """Wait until every task waits, a round trip through the kernel included."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def take(peer, count):
    """The payloads of so many frames."""
    return [(await peer.receive_frame()).payload for _ in range(count)]


async def take_all(peer, last):
    """The payloads of all frames up to one whose payload is *last*."""
    got = []
    while not got or got[-1] != last:
        got.append((await peer.receive_frame()).payload)
    return got


def large(number):
    """A large message that shows its number."""
    return b"%06d" % number * (LARGE // 6)


def number(payload):
    """The number of a large message."""
    assert payload == payload[:6] * (LARGE // 6)
    return int(payload[:6])


async def stall(channel, ws, peers=()):
    """Publish large messages until one waits for *ws*; returns how many, all read by *peers*."""
    count = 0
    while not ws.statistics().waiting_items:
        assert count < 500
        channel.publish_nowait(large(count))
        count += 1
        for peer in peers:
            await take(peer, 1)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
    return count


# What is sent.


async def test_all_who_are_attached_are_sent_what_is_published(party):
    """Text and octets, of any size, in order, and to no one else."""
    channel = BroadcastChannel[str | bytes | PreparedMessage]()
    pairs = [await party.meet() for _ in range(3)]
    (_, stranger), *members = pairs
    for ws, _ in members:
        channel.attach(ws)
    items = ["grüße", b"octets", b"", PreparedMessage("made before"), bytes(70_000)]
    for item in items:
        assert channel.publish_nowait(item) == Delivery(delivered=2)

    expected = [
        Frame(TEXT, "grüße".encode()),
        Frame(BINARY, b"octets"),
        Frame(BINARY, b""),
        Frame(TEXT, b"made before"),
        Frame(BINARY, bytes(70_000)),
    ]
    for _, peer in members:
        assert [await peer.receive_frame() for _ in items] == expected
    await stranger.expect_nothing()


async def test_what_is_sent_otherwise_keeps_its_place(party):
    """A connection sees one order: that of the calls."""
    channel, other = BroadcastChannel[str](), BroadcastChannel[str]()
    ws, peer = await party.meet()
    channel.attach(ws)
    other.attach(ws)
    await settle()
    ws.send_nowait("1")
    channel.publish_nowait("2")
    ws.send_nowait("3")
    channel.publish_nowait("4")
    channel.publish_nowait("5")
    ws.send_nowait("6")
    other.publish_nowait("7")
    await ws.send("8")

    assert await take(peer, 8) == [b"%d" % i for i in range(1, 9)]


async def test_what_is_published_before_the_close_comes_before_it(party):
    """And nothing after it; the connection is attached no longer."""
    channel = BroadcastChannel[str]()
    gone = []
    ws, peer = await party.meet()
    attachment = channel.attach(ws, on_detach=lambda: gone.append(channel.publish_nowait("late")))
    await settle()
    channel.publish_nowait("early")
    await ws.send_close()

    assert await take(peer, 1) == [b"early"]
    assert (await peer.receive_frame()).opcode == CLOSE
    assert not attachment.is_attached
    assert gone == [Delivery()]


async def test_one_who_comes_first_is_sent_the_history(party):
    """As much of its end as there is room for, then what is published."""
    channel = BroadcastChannel[str](history=3)
    for item in ("aa", "bb", "c", "d"):
        channel.publish_nowait(item)
    one, peer = await party.meet()
    other, small = await party.meet()
    channel.attach(one)
    channel.attach(other, capacity=Capacity(octets=2))
    channel.publish_nowait("e")

    assert await take(peer, 4) == [b"bb", b"c", b"d", b"e"]
    assert await take(small, 3) == [b"c", b"d", b"e"]


async def test_one_who_comes_back_is_sent_what_it_missed(party):
    """What is behind the number that it names, nothing if that is the last; then what follows."""
    channel = BroadcastChannel[str](history=3)
    for item in "abcd":
        channel.publish_nowait(item)
    one, peer = await party.meet()
    other, up_to_date = await party.meet()
    third, long_gone = await party.meet()
    channel.attach(one, after=2)
    channel.attach(other, after=channel.number)
    channel.attach(third, after=0)
    channel.publish_nowait("e")

    assert await take(peer, 3) == [b"c", b"d", b"e"]
    assert await take(up_to_date, 1) == [b"e"]
    assert await take(long_gone, 4) == [b"b", b"c", b"d", b"e"]


async def test_subscriptions_and_attachments_share_a_channel(party):
    """Each gets each item, and is counted."""
    channel = BroadcastChannel[str]()
    ws, peer = await party.meet()
    async with channel.subscribe() as subscription:
        with channel.attach(ws):
            assert channel.publish_nowait("both") == Delivery(delivered=2)
        assert channel.publish_nowait("one") == Delivery(delivered=1)
        assert [subscription.receive_nowait() for _ in range(2)] == ["both", "one"]
    assert await take(peer, 1) == [b"both"]
    await peer.expect_nothing()
    statistics = channel.statistics()
    assert (statistics.published, statistics.offered, statistics.delivered) == (2, 3, 3)


async def test_what_is_published_waits_for_a_message_in_parts(party):
    """Nothing but control frames may come between those (RFC 6455 §5.4)."""
    channel, other = BroadcastChannel[str](), BroadcastChannel[str](history=5)
    ws, peer = await party.meet()
    channel.attach(ws)
    other.publish_nowait("history")
    channel.publish_nowait("before")
    async with ws.open_message(text=True) as message:
        channel.publish_nowait("as well")
        await message.send("a")
        for text in ("1", "2"):
            channel.publish_nowait(text)
            await settle()
        other.attach(ws)
        other.publish_nowait("news")
        await message.send("b")
        await settle()
        channel.publish_nowait("3")
    channel.publish_nowait("after")
    await settle()

    frames = [await peer.receive_frame() for _ in range(5)]
    assert [(one.fin, one.opcode, one.payload) for one in frames] == [
        (True, TEXT, b"before"),
        (True, TEXT, b"as well"),
        (False, TEXT, b"a"),
        (False, CONTINUATION, b"b"),
        (True, CONTINUATION, b""),
    ]
    rest = await take(peer, 6)
    assert [one for one in rest if one in (b"history", b"news")] == [b"history", b"news"]
    assert [one for one in rest if one not in (b"history", b"news")] == [b"1", b"2", b"3", b"after"]
    channel.publish_nowait("and on")
    assert await take(peer, 1) == [b"and on"]


async def test_what_waits_for_a_message_in_parts_is_bounded(party):
    """By its policy, as where the peer is slow."""
    channel = BroadcastChannel[str]()
    ws, peer = await party.meet()
    channel.attach(ws, Policy.DROP_OLDEST, 2)
    async with ws.open_message(text=False) as message:
        await message.send(b"part")
        for number in range(5):
            channel.publish_nowait(str(number))
        assert ws.is_open
    assert await take(peer, 4) == [b"part", b"", b"3", b"4"]


async def test_a_client_publishes_to_its_server_too(party, nursery):
    """A connection of either role can be attached; a client's frames are masked."""
    channel = BroadcastChannel[str]()
    async with triows.open_websocket(f"ws://127.0.0.1:{party.server.port}") as ws:
        server_side = await party.arrivals.receive()
        with channel.attach(ws):
            channel.publish_nowait("hello")
            assert await server_side.receive() == "hello"
        server_side.abort("done")


async def test_a_burst_of_a_client_comes_whole(party):
    """More than may be unsent at a time, all of which the kernel takes at once: it goes on."""
    channel = BroadcastChannel[bytes]()
    items = [random.Random(number).randbytes(1_000) for number in range(150)]  # incompressible
    async with triows.open_websocket(f"ws://127.0.0.1:{party.server.port}") as ws:
        server_side = await party.arrivals.receive()
        with channel.attach(ws):
            for item in items:
                channel.publish_nowait(item)
            assert [await server_side.receive() for _ in items] == items
        server_side.abort("done")


# Ends.


async def test_leaving_the_block_detaches(party):
    """What was published in it is sent; nothing after it."""
    channel = BroadcastChannel[str]()
    ws, peer = await party.meet()
    with channel.attach(ws) as attachment:
        channel.publish_nowait("in")
        await settle()
    assert not attachment.is_attached
    assert channel.publish_nowait("out") == Delivery()
    attachment.detach()
    await ws.send("own")
    assert await take(peer, 2) == [b"in", b"own"]


@pytest.mark.parametrize("how", ["close", "abort", "peer"])
async def test_a_connection_that_ends_is_detached(party, how):
    """However it ends, once, and the channel forgets it."""
    channel = BroadcastChannel[str]()
    calls = []
    ws, peer = await party.meet()
    attachment = channel.attach(ws, on_detach=lambda: calls.append(1))
    await settle()
    if how == "close":
        with trio.move_on_after(0.01):
            await ws.aclose()
    elif how == "abort":
        ws.abort("enough")
    else:
        await trio.aclose_forcefully(peer.stream)
        await settle()

    assert calls == [1]
    assert not attachment.is_attached
    assert channel.statistics().members == 0
    assert channel.publish_nowait("nobody") == Delivery()


async def test_what_is_told_of_the_end_may_fail(party, caplog):
    """It costs no one else anything: the other connections of the loop go on."""
    channel = BroadcastChannel[str]()
    told = []

    def fail():
        told.append(channel)
        raise ArithmeticError

    ws, peer = await party.meet()
    other, its_peer = await party.meet()
    channel.attach(ws, on_detach=fail).call_on_detach(fail)
    channel.attach(other)
    await peer.stream.aclose()
    await settle()
    assert len(told) == 2
    channel.publish_nowait("goes on")

    assert await take(its_peer, 1) == [b"goes on"]
    assert [record.message for record in caplog.records] == ["on_detach failed"] * 2


async def test_one_who_has_ended_cannot_be_attached(party):
    """The errors are those of sending; a closed channel takes no one."""
    channel = BroadcastChannel[str]()
    ws, _ = await party.meet()
    with channel:
        pass
    with pytest.raises(trio.ClosedResourceError):
        channel.attach(ws)
    with trio.move_on_after(0.01):
        await ws.aclose()
    with pytest.raises(trio.ClosedResourceError):
        BroadcastChannel[str]().attach(ws)


async def test_what_is_no_message_is_published_to_no_one(party):
    """Once a WebSocket is attached, items are messages."""
    channel = BroadcastChannel[object]()
    ws, peer = await party.meet()
    async with channel.subscribe() as subscription:
        channel.publish_nowait(1)
        channel.attach(ws)
        with pytest.raises(TypeError, match="int"):
            channel.publish_nowait(1)
        with pytest.raises(UnicodeEncodeError):
            await channel.publish("\ud800")
        assert subscription.receive_nowait() == 1
        with pytest.raises(trio.WouldBlock):
            subscription.receive_nowait()
    await peer.expect_nothing()


async def test_only_a_reactors_connections_publish_by_themselves(party):
    """A WebSocket has no compiled handler."""
    ws, _ = await party.meet()
    with pytest.raises(TypeError, match="compiled"):
        BroadcastChannel[str]().attach(ws, publishes=True)


# Slow peers.


async def test_a_slow_peer_loses_what_its_policy_says_and_is_told(party):
    """DROP_OLDEST: a gap, then the newest; the others miss nothing."""
    channel = BroadcastChannel[bytes]()
    slow, slow_peer = await party.meet(is_small=True)
    quick, quick_peer = await party.meet()
    attachment = channel.attach(slow, Policy.DROP_OLDEST, 3, lagged=lambda count: f"lost {count}")
    channel.attach(quick)
    count = await stall(channel, attachment, [quick_peer])
    for i in range(count, count + 10):
        channel.publish_nowait(large(i))
        assert number(*await take(quick_peer, 1)) == i
    assert attachment.statistics().waiting_items == 3
    dropped = attachment.statistics().dropped
    assert dropped > 0

    got = await take_all(slow_peer, large(count + 9))
    gap = got.index(b"lost %d" % dropped)
    assert list(map(number, got[:gap])) == list(range(gap))
    assert list(map(number, got[gap + 1 :])) == list(range(count + 7, count + 10))
    assert gap + dropped + 3 == count + 10
    await ws_is_quick_again(channel, attachment, slow_peer)


async def ws_is_quick_again(channel, attachment, peer):
    """A peer that has caught up is sent what is published as any other."""
    assert attachment.statistics().waiting_items == 0
    for i in range(3):
        channel.publish_nowait(large(i))
    assert list(map(number, await take(peer, 3))) == [0, 1, 2]
    statistics = channel.statistics()
    assert statistics.offered == statistics.delivered + statistics.dropped + statistics.closed


async def test_drop_newest_keeps_what_waits(party):
    """The gap comes behind it."""
    channel = BroadcastChannel[bytes]()
    ws, peer = await party.meet(is_small=True)
    attachment = channel.attach(ws, Policy.DROP_NEWEST, 3, lagged=lambda count: f"lost {count}")
    count = await stall(channel, attachment)
    deliveries = [channel.publish_nowait(large(i)) for i in range(count, count + 10)]
    dropped = sum(one.dropped for one in deliveries)
    assert dropped == attachment.statistics().dropped == 10 - (3 - 1)

    got = await take_all(peer, b"lost %d" % dropped)
    assert list(map(number, got[:-1])) == list(range(count + 2))
    await ws_is_quick_again(channel, attachment, peer)


async def test_latest_sends_the_last_of_each_key(party):
    """What a slow peer gets late is not old."""
    channel = BroadcastChannel[bytes]()
    ws, peer = await party.meet(is_small=True)
    attachment = channel.attach(ws, Policy.LATEST(lambda item: int(item[:6]) % 2), 5)
    count = await stall(channel, attachment)
    for i in range(count, count + 10):
        channel.publish_nowait(large(i))
    assert attachment.statistics().waiting_items == 2

    got = []
    while not {count + 8, count + 9} <= set(got):
        got += map(number, await take(peer, 1))
    assert sorted(got[-2:]) == [count + 8, count + 9]
    assert got[:-2] == list(range(len(got) - 2))
    await ws_is_quick_again(channel, attachment, peer)


async def test_a_peer_that_blocks_is_waited_for(party):
    """Nothing is lost, and nothing grows; publishers go on when the peer reads."""
    channel = BroadcastChannel[bytes]()
    ws, peer = await party.meet(is_small=True)
    attachment = channel.attach(ws, Policy.BLOCK, 2)
    total = 100
    published = 0

    async def publish():
        nonlocal published
        for i in range(total):
            await channel.publish(large(i))
            published += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        await settle()
        assert attachment.statistics().waiting_items == 2
        with pytest.raises(trio.WouldBlock):
            channel.publish_nowait(b"")
        assert not channel.has_room(b"")
        held = published
        await settle()
        assert published == held < total
        assert list(map(number, await take(peer, total))) == list(range(total))
    await ws_is_quick_again(channel, attachment, peer)


async def test_a_peer_that_is_cut_off_is_told_1013(party):
    """DISCONNECT: what was sent before arrives, then the Close; its receiver learns the same."""
    channel = BroadcastChannel[bytes]()
    ws, peer = await party.meet(is_small=True)
    attachment = channel.attach(ws, Policy.DISCONNECT, 2)
    count = await stall(channel, attachment)
    closed = 0
    while attachment.is_attached:
        closed += channel.publish_nowait(large(count)).closed
        count += 1
    assert closed == 1
    assert channel.statistics().members == 0
    with pytest.raises(triows.ConnectionBroken, match="1013"):
        await ws.receive()

    got = []
    while (frame := await peer.receive_frame()).opcode != CLOSE:
        got.append(number(frame.payload))
    assert int.from_bytes(frame.payload[:2]) == 1013
    assert got == list(range(len(got)))
    statistics = channel.statistics()
    assert statistics.offered == statistics.delivered + statistics.closed == count


async def test_what_is_published_as_one_is_cut_off_comes_behind_what_it_was_cut_off_for(party):
    """To all who are left: they get the same order."""
    channel = BroadcastChannel()
    slow, _ = await party.meet(is_small=True)
    ws, peer = await party.meet()
    channel.attach(slow, capacity=3, on_detach=lambda: channel.publish_nowait("it has left"))
    channel.attach(ws, Policy.DROP_OLDEST)
    async with channel.subscribe(Policy.DROP_OLDEST) as subscription:
        count = 0
        while channel.statistics().members == 3:
            channel.publish_nowait(large(count))
            count += 1
            await trio.lowlevel.checkpoint()
        heard = [subscription.receive_nowait() for _ in range(count + 1)]
        assert [number(one) for one in heard[:-1]] == list(range(count))
        assert heard[-1] == "it has left"
        assert subscription.number == count + 1
        got = await take_all(peer, b"it has left")
        assert [number(payload) for payload in got[:-1]] == list(range(count))


async def test_a_key_that_raises_cuts_off_its_own_connection(party):
    """The publisher and the others notice nothing."""
    channel = BroadcastChannel[bytes]()
    ws, _ = await party.meet(is_small=True)
    quick, peer = await party.meet()
    attachment = channel.attach(ws, Policy.LATEST(lambda item: 1 // (len(item) - 1)), 5)
    channel.attach(quick, capacity=Capacity(octets=2**30))
    await stall(channel, attachment, [peer])
    assert channel.publish_nowait(b"x").closed == 1
    assert not attachment.is_attached
    assert await take(peer, 1) == [b"x"]


async def test_what_tells_of_a_gap_may_fail(party):
    """It is not asked again; what is there is sent."""
    channel = BroadcastChannel[bytes]()
    calls = []

    def lagged(count):
        calls.append(count)
        raise ZeroDivisionError

    ws, peer = await party.meet(is_small=True)
    attachment = channel.attach(ws, Policy.DROP_NEWEST, 1, lagged=lagged)
    count = await stall(channel, attachment)
    for _ in range(2):
        channel.publish_nowait(large(count))
        await take_all(peer, large(count - 1)) if not calls else None
        await settle()
    assert len(calls) == 1


async def test_items_lost_before_the_channel_are_told(party):
    """To quick and slow alike, in their place."""
    channel = BroadcastChannel[bytes]()
    ws, peer = await party.meet(is_small=True)
    mute, mute_peer = await party.meet()
    attachment = channel.attach(ws, capacity=9, lagged=lambda count: f"lost {count}")
    channel.attach(mute, capacity=Capacity(octets=2**30))
    channel.publish_nowait(b"first")
    channel.skip(2)
    channel.publish_nowait(b"second")
    assert await take(peer, 3) == [b"first", b"lost 2", b"second"]
    assert await take(mute_peer, 2) == [b"first", b"second"]
    count = await stall(channel, attachment, [mute_peer])
    channel.skip(3)
    channel.publish_nowait(b"last")
    got = await take_all(peer, b"last")
    assert list(map(number, got[:-2])) == list(range(count))
    assert got[-2] == b"lost 3"


async def test_a_slow_member_that_leaves_is_forgotten(party):
    """Detached, what waits for it is thrown away; closed, likewise."""
    channel = BroadcastChannel[bytes]()
    pairs = [await party.meet(is_small=True) for _ in range(2)]
    attachments = [channel.attach(ws, Policy.DROP_OLDEST, 4) for ws, _ in pairs]
    for attachment in attachments:
        await stall(channel, attachment)
    attachments[0].detach()
    pairs[1][0].abort("enough")
    await settle()
    assert not any(one.statistics().waiting_items for one in attachments)
    assert channel.publish_nowait(b"x") == Delivery()
    gc.collect()


async def test_many_channels_in_one_pass(party):
    """A connection in a hundred channels is sent each one's item."""
    channels = [BroadcastChannel[str]() for _ in range(100)]
    ws, peer = await party.meet()
    other, other_peer = await party.meet()
    await settle()
    for channel in channels:
        channel.attach(ws)
    channels[70].attach(other)
    for i, channel in enumerate(channels):
        channel.publish_nowait(str(i))

    assert sorted(map(int, await take(peer, 100))) == list(range(100))
    assert await take(other_peer, 1) == [b"70"]
    for channel in channels:
        channel.close()


async def test_it_says_what_it_is(party):
    """Its policy, or that it is over."""
    ws, _ = await party.meet()
    with BroadcastChannel[str]().attach(ws) as attachment:
        assert repr(attachment) == "<triows.Attachment under Policy.DISCONNECT>"
    assert repr(attachment) == "<triows.Attachment detached>"


# What it costs.


@pytest.mark.parametrize("party", ["reactor"], indirect=True)
async def test_what_is_published_in_a_pass_leaves_in_one_send_each(party):
    """Several publishes, and a member's own messages beside them: one system call a member."""
    channel = BroadcastChannel[str]()
    pairs = [await party.meet() for _ in range(5)]
    for ws, _ in pairs:
        channel.attach(ws)
    await settle()
    before = party.server.statistics().loop
    pairs[0][0].send_nowait("own")
    for i in range(10):
        channel.publish_nowait(str(i))
    pairs[1][0].send_nowait("own")
    await settle()
    after = party.server.statistics().loop

    assert after.sends - before.sends == 5
    assert after.messages_sent - before.messages_sent == 52
    assert after.octets_sent - before.octets_sent == 5 * 10 + 2 * 3
    assert await take(pairs[0][1], 11) == [b"own", *(b"%d" % i for i in range(10))]
    assert await take(pairs[1][1], 11) == [*(b"%d" % i for i in range(10)), b"own"]
    with contextlib.suppress(trio.WouldBlock):
        await take(pairs[2][1], 10)


@pytest.mark.parametrize("party", ["reactor"], indirect=True)
async def test_a_large_room_waits_for_those_who_publish_in_turn(party):
    """Publishes of a few passes, one in each, leave in one send each where members are many."""
    channel = BroadcastChannel[str]()
    pairs = [await party.meet() for _ in range(70)]
    for ws, _ in pairs:
        channel.attach(ws)
    await settle()
    before = party.server.statistics().loop.sends
    for i in range(5):
        channel.publish_nowait(str(i))
        await trio.lowlevel.checkpoint()
    await settle()

    assert party.server.statistics().loop.sends - before == 70
    for _, peer in pairs:
        assert await take(peer, 5) == [b"%d" % i for i in range(5)]

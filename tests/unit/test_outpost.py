"""Channels whose members are in loops of other threads, and publishing from other threads."""

import gc
import threading
import weakref

import pytest
import trio
import trio.testing

from tests.conformance.peer import BINARY, CLOSE, TEXT, Frame
from tests.sessions import GRACE, connect_pair, make_peer, open_session, running
from triows import (
    BroadcastChannel,
    Capacity,
    Handler,
    Policy,
    Reactor,
    compiled,
)

pytestmark = pytest.mark.usefixtures("warm_sessions")


@compiled
def publish_all(_payload, _opcode):
    """Publish everything."""
    return 10


class Guests(Handler):
    """Attaches who comes, and publishes what they say."""

    def __init__(self, channel, *options, **more):
        self.channel = channel
        self.options, self.more = options, more
        self.attachments = []
        self.conns = []
        self.ends = []
        self.changed = trio.lowlevel.ParkingLot()

    def on_open(self, conn):
        """Attach."""
        self.conns.append(conn)
        self.attachments.append(self.channel.attach(conn, *self.options, **self.more))
        self.changed.unpark_all()

    def on_frame(self, _conn, payload, _opcode):
        """Publish."""
        self.channel.publish_nowait(bytes(payload))

    def on_close(self, _conn, code, _reason):
        """Note the code."""
        self.ends.append(code)
        self.changed.unpark_all()

    async def wait_for(self, count):
        """Wait until so many have come."""
        while len(self.conns) < count:
            await self.changed.park()


def make(kind, channel):
    """A reactor of one of the kinds that publish."""
    if kind == "compiled":
        return Reactor(publish_all, channel=channel, threads=1)
    if kind == "two loops":
        return Reactor(publish_all, channel=channel, threads=2)
    if kind == "inline":
        return Reactor(publish_all, channel=channel, threads=0)
    if kind == "both":
        guests = Guests(channel, publishes=True)
        return Reactor(guests, compiled=publish_all, threads=1)
    return Reactor(Guests(channel), threads=1)


KINDS = ["compiled", "two loops", "inline", "both", "callback"]


async def until(check):
    """Wait until something is so that a thread does."""
    with trio.fail_after(5):
        while not check():  # noqa: ASYNC110 - a thread tells no one
            await trio.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS)
async def test_members_hear_peers_and_publishers(kind):
    """Whoever publishes, whichever thread a member's loop is in; all is counted."""
    channel = BroadcastChannel()
    async with (
        running(make(kind, channel)) as reactor,
        channel.subscribe(Policy.DROP_OLDEST) as subscription,
    ):
        peers = []
        for _ in range(4):
            ours, peer = open_session()
            reactor.add_session(ours)
            peers.append(peer)
        await until(lambda: channel.statistics().members == 5)
        await peers[0].send_frame(BINARY, b"from a peer")
        for peer in peers:
            assert await peer.receive_frame() == Frame(BINARY, b"from a peer")
        assert await subscription.receive() == b"from a peer"
        await channel.publish("from a task")
        channel.publish_nowait("and another")
        for peer in peers:
            assert await peer.receive_frame() == Frame(TEXT, b"from a task")
            assert await peer.receive_frame() == Frame(TEXT, b"and another")
        await until(lambda: channel.statistics().offered == 15)
        statistics = channel.statistics()
        assert (statistics.published, statistics.delivered) == (3, 15)
        for peer in peers:
            await peer.aclose()
        await until(lambda: channel.statistics().members == 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_of_one_publisher_keep_their_order(kind):
    """However many are under way at a time."""
    channel = BroadcastChannel()
    async with running(make(kind, channel)) as reactor:
        peers = []
        for _ in range(3):
            ours, peer = open_session()
            reactor.add_session(ours)
            peers.append(peer)
        await until(lambda: channel.statistics().members == 3)
        for i in range(500):
            await channel.publish(b"%d" % i)
        for peer in peers:
            got = [(await peer.receive_frame()).payload for _ in range(500)]
            assert got == [b"%d" % i for i in range(500)]


async def test_a_slow_peer_of_a_thread_is_waited_for():
    """BLOCK: nothing is lost, and what waits is bounded here and there."""
    channel = BroadcastChannel()
    guests = Guests(channel, Policy.BLOCK, Capacity(items=4))
    message = bytes(30_000)
    async with running(Reactor(guests, threads=1)) as reactor, trio.open_nursery() as nursery:
        ours, peer = open_session()
        reactor.add_session(ours)
        await guests.wait_for(1)
        published = 0

        @nursery.start_soon
        async def publish():
            nonlocal published
            for _ in range(200):
                await channel.publish(message)
                published += 1

        await trio.sleep(0.1)
        held = published
        await trio.sleep(0.05)
        assert published == held < 200
        for _ in range(200):
            assert (await peer.receive_frame()).payload == message
    assert channel.statistics().delivered == 200


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.DISCONNECT], ids=repr)
async def test_a_slow_peer_of_a_thread_is_under_its_policy(policy):
    """It loses what it must; the others nothing; the counts add up."""
    channel = BroadcastChannel()
    guests = Guests(channel, policy, 8, lagged=lambda count: f"lost {count}")
    message = bytes(30_000)
    async with running(Reactor(guests, threads=1)) as reactor:
        ours, slow = open_session()
        reactor.add_session(ours)
        await guests.wait_for(1)
        ours, quick = open_session()
        reactor.add_session(ours)
        await guests.wait_for(2)
        for _ in range(60):
            await channel.publish(message)
            assert (await quick.receive_frame()).payload == message
        await until(lambda: channel.statistics().dropped + channel.statistics().closed)
        if policy is Policy.DISCONNECT:
            await until(lambda: not guests.attachments[0].is_attached)
            assert guests.attachments[1].is_attached
            while (frame := await slow.receive_frame()).opcode != CLOSE:
                assert frame.payload == message
            assert frame.payload[:2] == (1013).to_bytes(2)
        else:
            lost = guests.attachments[0].statistics().dropped
            got = []
            while sum(one == message for one in got) < 60 - lost:
                got.append((await slow.receive_frame()).payload)
            assert b"lost %d" % lost in got
        statistics = channel.statistics()
        assert statistics.offered == statistics.delivered + statistics.dropped + statistics.closed


async def test_detaching_from_a_thread():
    """What was published before arrives, and nothing after; told once."""
    channel = BroadcastChannel(history=1)
    channel.publish_nowait("history")
    calls = []
    guests = Guests(channel, on_detach=lambda: calls.append(1))
    async with running(Reactor(guests, threads=1)) as reactor:
        ours, peer = open_session()
        reactor.add_session(ours)
        await guests.wait_for(1)
        channel.publish_nowait("in")
        guests.attachments[0].detach()
        channel.publish_nowait("out")
        guests.conns[0].send("own")
        got = [(await peer.receive_frame()).payload for _ in range(3)]
        assert got == [b"history", b"in", b"own"]
        channel.skip(1)
        assert calls == [1]


async def test_a_reactor_that_ends_lets_its_members_go():
    """The channel lives on, without them."""
    channel = BroadcastChannel()
    guests = Guests(channel)
    async with running(Reactor(guests, threads=1)) as reactor:
        ours, _peer = open_session()
        reactor.add_session(ours)
        await guests.wait_for(1)
    await until(lambda: not guests.attachments[0].is_attached)
    assert channel.publish_nowait("late").delivered == 0
    assert GRACE < 1


async def test_no_one_waits_for_a_reactor_that_has_ended():
    """A publisher that waited for its slow member goes on, as do all others from then on."""
    channel = BroadcastChannel()
    guests = Guests(channel, Policy.BLOCK, 1)
    message = bytes(300_000)
    async with trio.open_nursery() as nursery:
        async with running(Reactor(guests, threads=1)) as reactor:
            ours, _peer = open_session()
            reactor.add_session(ours)
            await guests.wait_for(1)
            with trio.move_on_after(0.5):
                while True:
                    await channel.publish(message)
            nursery.start_soon(channel.publish, message)
            await trio.testing.wait_all_tasks_blocked()
            assert channel.statistics().publishers_waiting == 1
            conn, published = guests.conns[0], channel.statistics().published
        with trio.fail_after(5):
            while channel.statistics().published == published:
                await trio.lowlevel.checkpoint()
            for _ in range(2_000):
                await channel.publish(message)
    assert not guests.attachments[0].is_attached
    assert not channel.attach(conn).is_attached
    statistics = channel.statistics()
    assert statistics.members == 0
    assert statistics.offered == statistics.delivered
    assert statistics.offered > 0


async def test_a_channel_is_not_kept_by_a_thread_where_it_had_members():
    """However long the thread's loop goes on."""
    channel = BroadcastChannel()
    guests = Guests(channel)
    async with running(Reactor(guests, threads=1)) as reactor:
        ours, peer = open_session()
        reactor.add_session(ours)
        await guests.wait_for(1)
        await peer.aclose()
        await until(lambda: not guests.attachments[0].is_attached)
        known = weakref.ref(channel)
        guests.channel = None
        guests.attachments.clear()
        del channel
        await until(lambda: gc.collect() is None or known() is None)


async def test_items_lost_before_the_channel_are_told_in_threads():
    """In their place among what is published."""
    channel = BroadcastChannel()
    guests = Guests(channel, lagged=lambda count: f"lost {count}")
    async with running(Reactor(guests, threads=1)) as reactor:
        ours, theirs = connect_pair()
        peer = make_peer(theirs)
        reactor.add_session(ours)
        await guests.wait_for(1)
        channel.publish_nowait("1")
        channel.skip(2)
        channel.publish_nowait("2")
        got = [(await peer.receive_frame()).payload for _ in range(3)]
        assert got == [b"1", b"lost 2", b"2"]


# Publishing from another thread.


async def test_a_thread_publishes():
    """In order, waiting for room; leaving the block waits for what it has published."""
    channel = BroadcastChannel()
    got = []

    async def follow(*, task_status):
        async with channel.subscribe(capacity=4) as subscription:
            task_status.started()
            got.extend([item async for item in subscription])

    def work(publisher):
        for i in range(1_000):
            publisher.publish(i)

    async with trio.open_nursery() as nursery:
        await nursery.start(follow)
        async with channel.open_publisher(capacity=16) as publisher:
            threads = [threading.Thread(target=work, args=(publisher,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            await trio.to_thread.run_sync(threads[0].join)
            await trio.to_thread.run_sync(threads[1].join)
        channel.close()

    assert sorted(got) == sorted([*range(1_000)] * 2)


async def test_a_thread_that_finds_no_room():
    """WouldBlock, or TimeoutError after waiting; nothing was published."""
    channel = BroadcastChannel()
    async with channel.subscribe(capacity=1) as subscription:
        async with channel.open_publisher(capacity=2) as publisher:
            await trio.to_thread.run_sync(publisher.publish_nowait, 0)
            await trio.testing.wait_all_tasks_blocked()
            items = [1, 2, 3]
            while True:
                try:
                    await trio.to_thread.run_sync(publisher.publish_nowait, items[0])
                except trio.WouldBlock:
                    break
                items.pop(0)
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(TimeoutError):
                await trio.to_thread.run_sync(lambda: publisher.publish(9, timeout=0.01))
            got = [await subscription.receive() for _ in range(4 - len(items))]
        assert got == list(range(4 - len(items)))
    with pytest.raises(trio.ClosedResourceError):
        publisher.publish_nowait(1)
    with pytest.raises(trio.ClosedResourceError):
        publisher.publish(1)


async def test_a_channel_that_closes_ends_its_publishers():
    """A thread that waits for room is told."""
    channel = BroadcastChannel()
    async with channel.subscribe(Policy.BLOCK, 1), channel.open_publisher(capacity=1) as publisher:

        def work():
            for _ in range(1_000):
                try:
                    publisher.publish(1)
                except trio.ClosedResourceError:
                    return
            pytest.fail("it was never told")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, work)
            await trio.sleep(0.05)
            channel.close()


async def test_a_cancelled_block_ends_its_publisher():
    """A thread that waits is told; what had not been published is not."""
    channel = BroadcastChannel()

    def work(publisher):
        for _ in range(1_000):
            try:
                publisher.publish(1)
            except trio.ClosedResourceError:
                return
        pytest.fail("it was never told")

    async with channel.subscribe(Policy.BLOCK, 1):
        with trio.move_on_after(0.05):
            async with channel.open_publisher(capacity=1) as publisher:
                thread = threading.Thread(target=work, args=(publisher,))
                thread.start()
                await trio.sleep_forever()
        await trio.to_thread.run_sync(thread.join)

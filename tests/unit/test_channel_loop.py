"""The loop that channels live on, over socket pairs: compiled, or interpreted."""

import errno
import socket
from types import SimpleNamespace

import pytest
import trio
import trio.testing

import triows
from tests.naive_reception import build_fragments, build_frame, parse_frames
from triows._engine import Closed, Failed, Lost, Message, Part, Ponged
from triows._kernels import _goodbye, _outlet, _system
from triows._kernels import slots as s
from triows._kernels._registry import JIT
from triows._reactor import ChannelDriver, ChannelLoop, Session, Terms
from triows._reactor._channels import WORTH_A_PASS

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = b"\x11\x22\x33\x44"


class Sink:
    """Notes what a session delivers."""

    def __init__(self):
        self.events = []
        self.rooms = 0
        self.has_ended = False

    def deliver(self, events):
        """Take events."""
        self.events += events

    def take_message(self, payload, size):
        """Take a message."""
        self.events.append(Message(payload, size))

    def make_room(self):
        """Take note of room."""
        self.rooms += 1

    def end(self):
        """Take note of the end."""
        self.has_ended = True


class Bench:
    """A loop with one session, and its peer."""

    def __init__(self, limits=None, keepalive=None, leftover=b"", deflate=None, terms=None):
        self.loop = ChannelLoop(limits or triows.Limits(), keepalive or triows.KeepAlive())
        self.loop.bell = lambda: None
        self.peer, theirs = socket.socketpair()
        self.peer.setblocking(False)
        theirs.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        self.sink = Sink()
        self.session = Session(self.loop, theirs.detach(), self.sink, deflate, terms=terms)
        assert self.session._enter(leftover)

    def turn(self, times=4):
        """Take turns without waiting."""
        for _ in range(times):
            self.loop.take_turns(0)

    def tell(self, octets):
        """Send as the peer, and return what has been delivered since."""
        del self.sink.events[:]
        while octets:
            octets = octets[self.peer.send(octets[:20_000]) :]
            self.turn()
        return self.sink.events

    def hear(self):
        """What the peer was sent."""
        came = b""
        while True:
            self.turn()
            try:
                piece = self.peer.recv(1 << 20)
            except BlockingIOError:
                return came
            if not piece:
                return came
            came += piece


@pytest.fixture
def start():
    """Make benches, and close them in the end."""
    benches = []

    def make(**options):
        benches.append(Bench(**options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.loop.close()
        bench.loop.close()
        bench.peer.close()


def masked(opcode, payload=b"", **options):
    """A client's frame."""
    return build_frame(opcode, payload, key=KEY, **options)


def joined(opcode, pieces):
    """A client's fragments of one message."""
    return b"".join(build_fragments(opcode, pieces, key=KEY))


async def test_a_batch_waits_for_nothing_that_may_follow(warm):
    """To many, what is published is sent some passes later, with more; a batch in the next one."""
    loop, channel = ChannelLoop(triows.Limits(), triows.KeepAlive()), triows.BroadcastChannel()
    peers = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ChannelDriver(loop, grace=0.0).run)
        for _ in range(WORTH_A_PASS):
            peer, theirs = socket.socketpair()
            peers.append(peer)
            session = Session(loop, theirs.detach(), Sink())
            session.start(b"")
            loop.fan.join(channel.stage(), session._slot, session.number, channel.make_place())
        await trio.testing.wait_all_tasks_blocked()

        channel.publish_nowait("one")
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert loop.fan.noted
        await trio.testing.wait_all_tasks_blocked()
        assert not loop.fan.noted
        assert channel.publish_batch(["two", "three"]) == 2
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert not loop.fan.noted
        nursery.cancel_scope.cancel()
    for peer in peers:
        came = peer.recv(1 << 20)
        assert [payload for _, payload in parse_frames(came)][:3] == [b"one", b"two", b"three"]
        peer.close()


def test_messages_are_delivered_and_sent(start):
    """Text is str, binary bytes; in whatever size, in order, the leftover first."""
    bench = start(leftover=masked(TEXT, b"left over"))
    assert bench.sink.events == [Message("left over", 9)]

    events = bench.tell(
        masked(TEXT, "é".encode()) + masked(BINARY, b"b") + joined(TEXT, [b"a", b"b"])
    )
    assert events == [Message("é", 2), Message(b"b", 1), Message("ab", 2)]
    assert bench.tell(masked(BINARY, bytes(200_000))) == [Message(bytes(200_000), 200_000)]
    bench.session.send(TEXT, b"one")
    bench.session.send_part(BINARY, b"a", is_last=False)
    bench.session.send_part(BINARY, b"b", is_last=True)
    bench.session.ping(b"?")
    assert parse_frames(bench.hear()) == [(0x81, b"one"), (2, b"a"), (0x80, b"b"), (0x89, b"?")]
    with pytest.raises(ValueError, match="125"):
        bench.session.ping(bytes(126))


def test_who_comes_between_turns_brings_no_message_twice(start):
    """What a turn has handed over is not handed over again with a newcomer's leftover."""
    bench = start()
    bench.peer.send(masked(TEXT, b"once"))
    bench.loop.take_turns(0)
    _, theirs = pair = socket.socketpair()
    sink = Sink()
    newcomer = Session(bench.loop, theirs.detach(), sink)
    assert newcomer._enter(masked(TEXT, b"left over"))
    assert sink.events == [Message("left over", 9)]
    assert bench.sink.events == [Message("once", 4)]
    pair[0].close()


def test_what_is_sent_because_of_an_end_changes_nothing_that_came_with_it(start):
    """So many sends that they leave at once, while messages between Pings are to be delivered."""
    bench = start()
    others = [socket.socketpair() for _ in range(2)]
    sinks = [Sink(), Sink()]
    for (_, theirs), sink in zip(others, sinks, strict=True):
        assert Session(bench.loop, theirs.detach(), sink)._enter(b"")
    farewells = s.SEND_CAPACITY + 1

    def bid_farewell(events):
        assert list(events) == [Closed(1000, "")]
        for _ in range(farewells):
            bench.session.send(TEXT, b"")

    sinks[0].deliver = bid_farewell
    others[0][0].send(masked(CLOSE, b"\x03\xe8"))
    others[1][0].send(
        masked(PING, b"1" * 9) + masked(TEXT, b"first") + masked(PING, b"2" * 9) + masked(TEXT)
    )
    bench.turn()
    assert sinks[1].events == [Message("first", 5), Message("", 0)]
    assert parse_frames(others[0][0].recv(100)) == [(0x88, b"\x03\xe8")]
    assert parse_frames(others[1][0].recv(100)) == [(0x8A, b"1" * 9), (0x8A, b"2" * 9)]
    assert parse_frames(bench.hear()) == [(0x81, b"")] * farewells
    for peer, _ in others:
        peer.close()


def test_more_timeouts_at_once_than_there_are_rows_are_all_told(start):
    """A sweep writes no more rows than there is room for; the next goes on."""
    count = s.ROW_CAPACITY + 2_000
    bench = start(limits=triows.Limits(max_connections=count + 1))
    told = []
    slots = bench.loop._slots[1 : count + 1]
    slots[:, s.PHASE] = s.OPEN
    slots[:, s.WANTS] = s.ENDINGS
    slots[:, s.DESCRIPTOR] = -1
    slots[:, s.MESSAGE_SINCE] = 1
    bench.loop._words[s.USED_SLOTS] = count + 1
    bench.loop._words[s.CONNECTIONS] = count + 1
    for slot in range(1, count + 1):
        session = SimpleNamespace(note=lambda *_, slot=slot: told.append(slot), end=lambda _: None)
        bench.loop._sessions_by_slot.append(session)

    bench.loop.take_turns(0)
    assert len(told) == s.ROW_CAPACITY
    bench.loop.take_turns(0)

    assert told == list(range(1, count + 1))
    assert bench.loop.connections == 1


def test_what_a_peer_does_not_take_is_unsent_until_there_is_room(start):
    """The octets are counted, and the channel is told as they leave."""
    bench = start()
    rooms = bench.sink.rooms
    bench.session.send(BINARY, bytes(300_000))
    assert bench.session.unsent >= 300_000
    bench.turn()
    assert bench.session.unsent > 100_000
    assert len(bench.hear()) == 300_010
    assert bench.session.unsent == 0
    assert bench.sink.rooms > rooms


def test_a_paused_peer_is_not_read_and_not_held_against(start):
    """Nothing is delivered until reading goes on; no deadline of the peer's passes."""
    bench = start(keepalive=triows.KeepAlive(interval=1, timeout=1))
    bench.tell(joined(TEXT, [b"begun", b"ended"])[:8])
    bench.session.pause()
    bench.peer.send(joined(TEXT, [b"begun", b"ended"])[8:])
    bench.loop._slots[0, s.HEARD] -= 10**10
    bench.loop._words[s.NEXT_SWEEP] = 0
    bench.turn()
    assert bench.sink.events == []

    bench.session.resume()
    bench.turn()
    assert bench.sink.events == [Message("begunended", 10)]


def test_a_peer_is_read_again_however_much_waits_for_it(start):
    """Else two that have much to say to each other would both wait for the other to read."""
    bench = start()
    bench.session.send(BINARY, bytes(300_000))
    bench.turn()
    bench.session.pause()
    bench.turn()
    bench.session.resume()
    assert bench.session.unsent > 100_000
    assert bench.tell(masked(TEXT, b"hello")) == [Message("hello", 5)]


def test_what_is_sent_before_a_connection_has_come_is_unsent_until_then(start):
    """Whatever leaves for others meanwhile."""
    bench = start()
    session = Session(bench.loop, -1, Sink())
    for _ in range(3):
        assert session.offer(BINARY, bytes(1_000), 3_000)
        bench.session.send(TEXT, b"to another")
        bench.loop.settle()
    assert session.unsent > 3_000
    assert not session.offer(BINARY, b"", 3_000)


def test_pongs_and_ends_are_events(start):
    """A Pong that came, then the peer's Close, which is answered."""
    bench = start()
    assert bench.tell(masked(PONG, b"!")) == [Ponged(b"!")]
    assert bench.tell(masked(PING, b"?")) == []
    events = bench.tell(masked(CLOSE, b"\x0f\xa0bye"))
    assert events == [Closed(4000, "bye")]
    assert parse_frames(bench.hear()) == [(0x8A, b"?"), (0x88, b"\x0f\xa0bye")]
    assert not bench.session.is_open
    assert bench.session.is_deaf


@pytest.mark.parametrize(("size", "count"), [(1, 60_000), (125, 2_000)])
def test_a_peer_that_pings_and_does_not_read_gets_a_pong_for_the_last(start, size, count):
    """What waits for it is bounded, what it sends is read, and its last Ping is answered."""
    bench = start()
    flood = masked(PING, b"p" * size) * count + masked(PING, b"l" * size) + masked(TEXT, b"read")
    assert bench.tell(flood) == [Message("read", 4)]
    assert bench.loop.statistics().queued_octets < 2 * s.MOST_PONGS

    bench.session.send(TEXT, b"answer")
    bench.tell(masked(PING, b"?") * 2)
    sent = bench.loop.statistics().frames_sent
    frames = parse_frames(bench.hear())
    assert frames[-3:] == [(0x8A, b"l" * size), (0x81, b"answer"), (0x8A, b"?")]
    assert len(frames) == sent

    assert bench.tell(masked(PING, b"!") * 3) == []
    assert parse_frames(bench.hear()) == [(0x8A, b"!")] * 3


def test_a_close_of_this_side_awaits_the_peers(start):
    """Messages before the peer's Close are still delivered, a message under way too."""
    bench = start()
    bench.tell(masked(TEXT, b"be", fin=False))
    bench.session.close(1000, "")
    bench.session.close(1001, "")
    assert parse_frames(bench.hear()) == [(0x88, b"\x03\xe8")]
    events = bench.tell(masked(0, b"gun") + masked(TEXT, b"last") + masked(CLOSE, b"\x03\xe8"))
    assert events == [Message("begun", 5), Message("last", 4), Closed(1000, "")]


def test_a_fault_is_told_at_once_and_a_loss_too(start):
    """The channel learns why, the peer by its Close."""
    bench = start()
    assert bench.tell(masked(3)) == [Failed(1002, "reserved opcode")]
    assert bench.session.outcome == Failed(1002, "reserved opcode")

    other = start()
    other.peer.close()
    other.turn()
    assert other.sink.events == [Lost("the transport ended")]


def test_a_message_that_takes_too_long_is_told_by_the_sweep(start):
    """A deadline is a fault as any."""
    bench = start()
    bench.tell(masked(TEXT, b"never finished")[:4])
    bench.loop._slots[0, s.MESSAGE_SINCE] -= 10**12
    bench.loop._words[s.NEXT_SWEEP] = 0
    bench.turn()
    assert bench.sink.events == [Failed(1008, "message not finished in time")]


def test_parts_that_were_taken_stop_no_clock(start):
    """A message has a deadline from its first octet, whether or not anything of it is held."""
    bench = start()
    bench.session.begin_parts()
    assert bench.tell(masked(TEXT, b"part", fin=False)) == [Part(b"part", TEXT, is_last=False)]
    began = bench.loop._slots[0, s.MESSAGE_SINCE]
    bench.tell(masked(PING))
    assert bench.loop._slots[0, s.MESSAGE_SINCE] == began > 0
    bench.tell(masked(0))
    assert bench.loop._slots[0, s.MESSAGE_SINCE] == 0


def test_a_silent_peer_is_lost(start):
    """After the Ping and its time the transport is dropped."""
    bench = start(keepalive=triows.KeepAlive(interval=1, timeout=1))
    for _ in range(2):
        bench.loop._slots[0, s.HEARD] -= 10**10
        bench.loop._words[s.NEXT_SWEEP] = 0
        bench.turn()
    assert isinstance(bench.session.outcome, Lost)


def test_an_abort_drops_the_transport(start):
    """Nothing is delivered after it, and the peer sees the end."""
    bench = start()
    bench.peer.send(masked(TEXT, b"too late"))
    bench.session.abort("enough")
    bench.turn()
    assert bench.sink.events == [Lost("enough")]


def test_a_message_can_come_in_parts(start):
    """What is held first, then as it comes, small or large; the next message whole again."""
    bench = start()
    bench.tell(masked(TEXT, b"be", fin=False))
    assert bench.session.begin_parts() == Part(b"be", TEXT, is_last=False)
    assert bench.tell(masked(0, b"gu", fin=False)) == [Part(b"gu", TEXT, is_last=False)]
    assert bench.tell(masked(0, b"n")) == [Part(b"n", TEXT, is_last=True)]
    assert bench.tell(masked(TEXT, b"whole")) == [Message("whole", 5)]

    assert bench.session.begin_parts() is None
    events = list(bench.tell(masked(BINARY, bytes(100_000))))
    assert b"".join(part.payload for part in events) == bytes(100_000)
    assert [part.is_last for part in events] == [False] * (len(events) - 1) + [True]
    assert len(events) > 1

    bench.session.begin_parts()
    assert bench.tell(masked(BINARY, b"small")) == [Part(b"small", BINARY, is_last=True)]
    bench.session.begin_parts()
    bench.session.end_parts()
    assert bench.tell(joined(TEXT, [b"a", b"b"])) == [Message("ab", 2)]


def test_parts_that_nobody_wants_any_more_are_joined(start):
    """Behind the last part, in one receive, another message begins."""
    bench = start()
    bench.session.begin_parts()
    events = bench.tell(masked(TEXT, b"one") + masked(TEXT, b"be", fin=False))
    assert events == [Part(b"one", TEXT, is_last=True)]
    assert bench.tell(masked(0, b"gun")) == [Message("begun", 5)]


def test_a_pause_between_messages_is_no_one_elses_matter(start):
    """Without a message under way there is only silence to be borne."""
    bench = start()
    bench.session.pause()
    bench.peer.send(masked(TEXT, b"later"))
    bench.turn()
    assert bench.sink.events == []
    bench.session.resume()
    bench.turn()
    assert bench.sink.events == [Message("later", 5)]


@pytest.mark.skipif(JIT, reason="compiled, a system call cannot be replaced")
def test_a_pause_that_epoll_refuses_ends_the_connection(start, monkeypatch):
    """A connection that epoll would no longer tell of is of no use."""
    bench = start()
    monkeypatch.setattr(_outlet, "watch", lambda *_: -errno.ENOMEM)
    bench.session.pause()
    bench.turn()
    assert bench.sink.events == [Lost("the transport ended")]


@pytest.mark.skipif(JIT, reason="compiled, a system call cannot be replaced")
def test_a_client_that_cannot_await_its_servers_end_ends(start, monkeypatch):
    """Past the closing handshake, a client whose interest epoll refuses drops the transport."""
    terms = Terms(is_client=True, limits=triows.Limits(), keepalive=triows.KeepAlive())
    bench = start(terms=terms)
    monkeypatch.setattr(_goodbye, "adjust_interest", lambda *_: s.BROKEN)
    assert bench.tell(build_frame(CLOSE, b"\x03\xe8")) == [Closed(1000, "")]
    assert bench.loop.connections == 0
    assert bench.sink.has_ended


@pytest.mark.skipif(JIT, reason="compiled, a system call cannot be replaced")
def test_an_old_kernel_waits_for_whole_milliseconds(start, monkeypatch):
    """Without epoll_pwait2 the same turns are taken, without a part of a millisecond's wait."""
    bench = start()
    real = _system.outcome
    answers = iter([-errno.ENOSYS])
    monkeypatch.setattr(_system, "outcome", lambda result: next(answers, None) or real(result))
    bench.peer.send(masked(TEXT, b"hi"))
    bench.loop.take_turns(0.000_05)
    assert bench.sink.events == [Message("hi", 2)]

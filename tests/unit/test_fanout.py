"""Fan-out in loops: callbacks and compiled handlers that publish, quick members and slow ones."""

import contextlib
import functools
import socket

import pytest

import triows
from tests.naive_reception import build_frame
from tests.unit.callback_pairs import CallbackPair, Recorder
from tests.unit.test_turn import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    SIZES,
    TEXT,
    Pair,
    close_payload,
    drain,
    frames,
    is_over,
    joined,
    masked,
)
from triows import BroadcastChannel, Capacity, Delivery, Policy
from triows._kernels import _fanout, _outlet
from triows._kernels import slots as s
from triows._kernels._handler import resolve_handler
from triows._kernels._registry import JIT

SMALL = 4_608
"""Octets that a socket pair with a small buffer holds, or a little less."""


@functools.cache
def resolved():
    """The compiled handler's address."""
    return resolve_handler(by_first_octet)


def by_first_octet(payload, _opcode):
    """Do what the message asks for."""
    if len(payload) == 0 or payload[0] == 112:  # p
        return 10
    if payload[0] == 101:  # e
        return 1
    if payload[0] == 100:  # d
        return 3
    if payload[0] == 99:  # c
        return 2
    return 77


class Hall:
    """A loop whose connections are all in one channel, and publish there if compiled."""

    def __init__(self, kind, channel, *, publishes=True, frame=None):
        self.channel = channel
        self.attachments = {}
        self.policy = (Policy.DISCONNECT, Capacity(octets=2**20))
        handler = resolved()
        if kind == "compiled":
            self.pair = Pair(handler)
            if publishes:
                self.pair.loop.host = self.join
        else:
            recorder = Recorder(frame=frame or self.publish, opened=self.attach)
            compiled = handler if kind == "both" else 0
            self.pair = CallbackPair(recorder, compiled=compiled)
            self.publishes = publishes and compiled != 0
        self.pair.loop._registers[s.BUDGET] = 2**60

    def join(self, slot, session):
        """Attach a connection of a compiled handler."""
        place = self.channel.make_place()
        self.pair.loop.fan.join(self.channel.stage(), slot, session, place, publishes=True)

    def attach(self, conn):
        """Attach a connection of a callback."""
        policy, capacity = self.policy
        self.attachments[conn.id] = self.channel.attach(
            conn, policy, capacity, publishes=self.publishes, lagged=lambda count: f"lost {count}"
        )

    def publish(self, _conn, payload, opcode):
        """Publish what came."""
        is_text = opcode == TEXT
        self.channel.publish_nowait(str(payload, "utf-8") if is_text else bytes(payload))


@pytest.fixture
def channel():
    """A channel."""
    return BroadcastChannel()


@pytest.fixture
def open_hall(warm, channel):
    """What opens a hall, and closes it in the end, when nothing may be left."""
    halls = []

    def make(kind, channel=channel, **options):
        halls.append(Hall(kind, channel, **options))
        return halls[-1]

    yield make
    for hall in halls:
        hall.pair.close()
        assert hall.pair.register(s.CONNECTIONS) == 0
        assert hall.pair.register(s.QUEUED) == 0
        assert not hall.pair.loop.fan._members
        assert not hall.pair.loop.fan._topics


@pytest.fixture(params=["compiled", "callback", "both"])
def hall(request, open_hall):
    """A hall, with a handler of each kind."""
    return open_hall(request.param)


def hear_all(pair, clients):
    """What came to each, after as many turns as it takes."""
    came = [b""] * len(clients)
    silences = 0
    while silences < 3:
        pair.turn()
        pieces = [drain(client) for client in clients]
        came = [had + piece for had, piece in zip(came, pieces, strict=True)]
        silences = 0 if any(pieces) else silences + 1
    return came


def send_all(pair, client, octets):
    """Send octets however slowly they are taken; returns nothing of what comes."""
    while octets:
        with contextlib.suppress(BlockingIOError):
            octets = octets[client.send(octets) :]
        pair.turn(1)


# What is published.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_goes_to_everyone(hall, size, opcode):
    """Of any size, whole or in fragments, its sender included, in a frame as any (§5.2)."""
    payload = b"p" * size
    clients = [hall.pair.connect() for _ in range(3)]

    send_all(hall.pair, clients[0], masked(opcode, payload))
    came = hear_all(hall.pair, clients)
    send_all(hall.pair, clients[1], joined(opcode, [payload[: size // 2], payload[size // 2 :]]))
    again = hear_all(hall.pair, clients)

    assert came == again == [build_frame(opcode, payload)] * 3
    statistics = hall.channel.statistics()
    assert (statistics.published, statistics.offered, statistics.delivered) == (2, 6, 6)


def test_what_a_turn_brings_leaves_in_one_send_each(hall):
    """However many messages, from however many senders: one system call for each member."""
    clients = [hall.pair.connect() for _ in range(5)]
    for client in clients[:2]:
        client.send(b"".join(masked(TEXT, b"p%d" % i) for i in range(10)))
    before = hall.pair.register(s.SENDS)
    came = hear_all(hall.pair, clients)

    assert hall.pair.register(s.SENDS) - before == 5
    assert len(set(came)) == 1
    assert sorted(frames(came[0])) == sorted([(TEXT, b"p%d" % i) for i in range(10)] * 2)
    assert hall.pair.register(s.MESSAGES_OUT) == hall.pair.register(s.FRAMES_OUT) == 100
    assert hall.pair.register(s.OCTETS_OUT) == 5 * 2 * 20


def test_replies_leave_with_what_is_published(hall):
    """Pongs and echoes, in one system call with it; a compiled handler's echoes go before."""
    if isinstance(hall.pair.loop, triows._reactor.CallbackLoop) and not hall.publishes:

        def frame(conn, payload, opcode):
            if payload[:1] == b"e":
                conn.echo()
            else:
                hall.publish(conn, payload, opcode)

        hall.pair.handler.do_frame = frame
    one, other = hall.pair.connect(), hall.pair.connect()
    before = hall.pair.register(s.SENDS)
    one.send(masked(TEXT, b"e1") + masked(TEXT, b"p") + masked(PING) + masked(TEXT, b"e2"))
    came = hear_all(hall.pair, [one, other])

    assert sorted(frames(came[0])) == sorted(
        [(TEXT, b"e1"), (TEXT, b"p"), (PONG, b""), (TEXT, b"e2")]
    )
    assert frames(came[0]).index((TEXT, b"e1")) < frames(came[0]).index((TEXT, b"e2"))
    assert frames(came[1]) == [(TEXT, b"p")]
    assert hall.pair.register(s.SENDS) - before == 2


def test_a_turn_that_brings_very_much(hall):
    """More than is held back until its end: nothing is lost, and order is kept."""
    clients = [hall.pair.connect() for _ in range(4)]
    payloads = [b"p%06d" % i + bytes(9_000) for i in range(20)]
    for client in clients[:3]:
        with contextlib.suppress(BlockingIOError):
            client.send(b"".join(masked(BINARY, payload) for payload in payloads[:6]))
    came = hear_all(hall.pair, clients)

    assert len(set(came)) == 1
    got = [payload for _, payload in frames(came[0])]
    assert sorted(got) == sorted(payloads[:6] * 3)


def test_one_that_closes_gets_nothing_more(hall):
    """What is published in the turn of its Close, and later, goes to the others."""
    one, other = hall.pair.connect(), hall.pair.connect()
    one.send(masked(TEXT, b"p1") + masked(CLOSE, close_payload(1000)) + masked(TEXT, b"p2"))
    came = hear_all(hall.pair, [one, other])
    other.send(masked(TEXT, b"p3"))
    later = hear_all(hall.pair, [one, other])

    assert (TEXT, b"p2") not in frames(came[1])
    assert frames(came[0])[-1] == (CLOSE, close_payload(1000))
    assert later == [b"", build_frame(TEXT, b"p3")]
    assert hall.channel.statistics().members == 1


def test_one_that_has_gone_is_forgotten(hall):
    """Its slot may be another's, who is a member of its own."""
    clients = [hall.pair.connect() for _ in range(3)]
    clients[1].close()
    clients[0].send(masked(TEXT, b"p"))
    hear_all(hall.pair, [clients[0], clients[2]])
    newcomer = hall.pair.connect()
    clients[0].send(masked(TEXT, b"p"))
    came = hear_all(hall.pair, [clients[0], clients[2], newcomer])

    assert came == [build_frame(TEXT, b"p")] * 3
    assert hall.channel.statistics().members == 3


def test_others_hear_what_a_loop_publishes(open_hall, channel):
    """Members of another loop, once that one turns; each in order."""
    halls = [open_hall("compiled"), open_hall("both"), open_hall("callback")]
    clients = [hall.pair.connect() for hall in halls]
    for hall, client in zip(halls, clients, strict=True):
        client.send(masked(TEXT, b"p1") + masked(BINARY, b"p2"))
        hall.pair.turn(3)
    expected = [(TEXT, b"p1"), (BINARY, b"p2")] * 3
    for _ in range(2):
        for hall in halls:
            hall.pair.turn()
    assert [frames(drain(client)) for client in clients] == [expected] * 3
    statistics = channel.statistics()
    assert (statistics.published, statistics.offered) == (6, 18)


def test_a_newcomer_gets_what_a_compiled_handler_has_published(open_hall):
    """The history is of all that was published."""
    channel = BroadcastChannel(history=2)
    hall = open_hall("both", channel)
    one = hall.pair.connect()
    one.send(b"".join(masked(TEXT, b"p%d" % i) for i in range(4)))
    hear_all(hall.pair, [one])
    newcomer = hall.pair.connect()
    one.send(masked(TEXT, b"p4"))

    came = hear_all(hall.pair, [one, newcomer])
    assert frames(came[1]) == [(TEXT, b"p%d" % i) for i in range(2, 5)]
    assert channel.number == 5


@pytest.mark.parametrize("kind", ["compiled", "both"])
def test_publishing_without_a_channel_is_the_handlers_failure(open_hall, kind):
    """1011, for its connection alone; whole messages and joined ones."""
    hall = open_hall(kind, publishes=False)
    for octets in (masked(TEXT, b"p"), joined(TEXT, [b"p", b"q"]), masked(BINARY, b"p" * 70_000)):
        client = hall.pair.connect()
        reply = hall.pair.talk(client, octets)
        assert frames(reply)[-1] == (CLOSE, close_payload(1011, b"the handler failed"))


def test_a_compiled_handler_chooses(open_hall):
    """Publish, echo, deliver, close, and an answer that is none, one after the other."""
    hall = open_hall("both")
    one, other = hall.pair.connect(), hall.pair.connect()
    one.send(b"".join(masked(TEXT, text) for text in (b"p", b"e", b"d", b"x", b"p")))
    came = hear_all(hall.pair, [one, other])

    assert hall.pair.handler.messages == [b"d"]
    assert frames(came[1]) == [(TEXT, b"p"), (TEXT, b"d")]
    assert frames(came[0])[-1] == (CLOSE, close_payload(1011, b"the handler failed"))


# From Python.


def test_what_is_published_between_turns_leaves_with_the_next(open_hall, channel):
    """In one system call with what callbacks send, in the order of the calls."""
    hall = open_hall("callback")
    clients = [hall.pair.connect() for _ in range(3)]
    conn = hall.pair.handler.conns[1]
    before = hall.pair.register(s.SENDS)
    conn.send("1")
    channel.publish_nowait("2")
    conn.send("3")
    channel.publish_nowait("4")
    conn.send("5")
    came = hear_all(hall.pair, clients)

    assert frames(came[0]) == [(TEXT, b"%d" % i) for i in range(1, 6)]
    assert came[1] == came[2] == build_frame(TEXT, b"2") + build_frame(TEXT, b"4")
    assert hall.pair.register(s.SENDS) - before == 3


def test_one_that_is_ahead_gets_the_rest(open_hall, channel):
    """What it was sent early, because of something of its own, it is not sent again."""
    hall = open_hall("callback")
    clients = [hall.pair.connect() for _ in range(2)]
    channel.publish_nowait("1")
    hall.pair.handler.conns[1].send("own")
    channel.publish_nowait("2")
    came = hear_all(hall.pair, clients)

    assert frames(came[0]) == [(TEXT, b"1"), (TEXT, b"own"), (TEXT, b"2")]
    assert frames(came[1]) == [(TEXT, b"1"), (TEXT, b"2")]
    assert hall.pair.register(s.MESSAGES_OUT) == 5


def test_a_crowd(hall):
    """More members than there was room for at first; they come and go."""
    clients = [hall.pair.connect() for _ in range(40)]
    for client in clients[::3]:
        client.close()
    hall.pair.turn()
    left = [client for i, client in enumerate(clients) if i % 3]
    left[0].send(masked(TEXT, b"p"))
    assert hear_all(hall.pair, left) == [build_frame(TEXT, b"p")] * len(left)


@pytest.mark.parametrize("echoes_first", [False, True])
def test_a_callback_that_publishes_and_answers(open_hall, channel, echoes_first):
    """What it publishes comes between what it sends before and after; its echo comes last."""

    def frame(conn, payload, _opcode):
        if echoes_first:
            conn.echo()
        conn.send("first")
        channel.publish_nowait(bytes(payload))
        conn.send("second")
        channel.publish_nowait("third")
        if not echoes_first:
            conn.echo()

    hall = open_hall("callback", frame=frame)
    one, other = hall.pair.connect(), hall.pair.connect()
    came_one, came_other = b"", b""
    one.send(masked(BINARY, b"x"))
    came_one, came_other = hear_all(hall.pair, [one, other])

    sent = [(TEXT, b"first"), (BINARY, b"x"), (TEXT, b"second"), (TEXT, b"third")]
    assert frames(came_one) == [*sent, (BINARY, b"x")]
    assert frames(came_other) == [(BINARY, b"x"), (TEXT, b"third")]


def test_closing_comes_behind_what_was_published(open_hall, channel):
    """A callback that publishes and closes: the members get both, nothing after that."""

    def frame(conn, _payload, _opcode):
        channel.publish_nowait("last words")
        conn.close()
        assert channel.publish_nowait("more") == Delivery(delivered=1)

    hall = open_hall("callback", frame=frame)
    one, other = hall.pair.connect(), hall.pair.connect()
    one.send(masked(TEXT, b"x"))
    came = hear_all(hall.pair, [one, other])

    assert frames(came[0]) == [(TEXT, b"last words"), (CLOSE, close_payload(1000))]
    assert frames(came[1]) == [(TEXT, b"last words"), (TEXT, b"more")]


def test_a_connection_that_is_not_open_is_not_attached(open_hall, channel):
    """It is detached at once, and told so."""
    hall = open_hall("callback")
    client = hall.pair.connect()
    conn = hall.pair.handler.conns[1]
    client.close()
    hall.pair.turn()
    calls = []
    attachment = channel.attach(conn, on_detach=lambda: calls.append(1))
    assert not attachment.is_attached
    assert calls == [1]


def test_a_compiled_handler_waits_for_no_one(open_hall, channel):
    """So no one can ask it to: neither before it publishes nor after."""
    hall = open_hall("both", publishes=False)
    hall.pair.connect()
    conn = hall.pair.handler.conns[1]
    with channel.attach(conn, Policy.BLOCK), pytest.raises(ValueError, match="BLOCK"):
        channel.attach(conn, publishes=True)
    with pytest.raises(ValueError, match="BLOCK"):
        channel.attach(conn, Policy.BLOCK, publishes=True)
    channel.attach(conn, publishes=True)
    with pytest.raises(ValueError, match="BLOCK"):
        channel.attach(conn, Policy.BLOCK)


def test_many_topics(open_hall):
    """More channels than the table had room for, and than one call takes batches of."""
    hall = open_hall("callback", BroadcastChannel())
    clients = [hall.pair.connect() for _ in range(2)]
    conn = hall.pair.handler.conns[1]
    channels = [BroadcastChannel() for _ in range(150)]
    attachments = [channel.attach(conn) for channel in channels]
    for i, channel in enumerate(channels):
        channel.publish_nowait(str(i))
    hall.channel.publish_nowait("all")
    came = hear_all(hall.pair, clients)

    assert sorted(frames(came[0])) == sorted(
        [(TEXT, b"%d" % i) for i in range(150)] + [(TEXT, b"all")]
    )
    assert came[1] == build_frame(TEXT, b"all")
    for attachment in attachments:
        attachment.detach()
    assert len(hall.pair.loop.fan._topics) == 1


def test_a_compiled_handler_publishes_to_the_channel_that_was_said_last(open_hall):
    """Nothing is left of those before; in that one it goes on while another attachment ends."""
    hall = open_hall("both", BroadcastChannel(), publishes=False)
    client = hall.pair.connect()
    conn = hall.pair.handler.conns[1]
    hall.attachments[1].detach()
    channels = [BroadcastChannel() for _ in range(3)]
    before = None
    for channel in channels:
        attachment = channel.attach(conn, publishes=True)
        if before is not None:
            before.detach()
        before = attachment
    channels[-1].attach(conn).detach()
    client.send(masked(BINARY, b"p1"))
    assert hear_all(hall.pair, [client]) == [build_frame(BINARY, b"p1")]
    assert [channel.statistics().published for channel in channels] == [0, 0, 1]
    assert len(hall.pair.loop.fan._topics) == 1


# Slow members.


def number(i):
    """A message that shows its number."""
    return b"p%05d" % i + bytes(500)


def numbers(octets):
    """The numbers of messages, and other payloads as they are."""
    return [int(payload[1:6]) if len(payload) == 506 else payload for _, payload in frames(octets)]


def test_one_that_is_found_slow_by_the_last_batch_that_fits_has_its_message_once(open_hall):
    """As many channels as one call takes batches of, to a peer that was full: all once."""
    hall = open_hall("callback", BroadcastChannel())
    slow = hall.pair.connect(buffer=SMALL)
    channels = [BroadcastChannel() for _ in range(s.BATCH_CAPACITY)]
    for channel in channels:
        channel.attach(hall.pair.handler.conns[1])
    count = 0
    while not hall.pair.register(s.QUEUED):
        channels[0].publish_nowait(number(count))
        hall.pair.turn(1)
        count += 1

    for i, channel in enumerate(channels):
        channel.publish_nowait(b"%d" % i)

    came = numbers(hear_all(hall.pair, [slow])[0])
    assert came[:count] == list(range(count))
    assert sorted(came[count:]) == sorted(b"%d" % i for i in range(s.BATCH_CAPACITY))


@pytest.mark.parametrize("count", [20, 60])
def test_a_member_that_is_slow_for_a_while_misses_nothing(hall, count):
    """While it does not read, others get all at once; then it does, in order."""
    slow, quick = hall.pair.connect(buffer=SMALL), hall.pair.connect()
    for i in range(count):
        quick.send(masked(BINARY, number(i)))
        hall.pair.turn(3)
    assert numbers(drain(quick)) == list(range(count))
    assert hall.pair.register(s.QUEUED) < 2_000

    came = hear_all(hall.pair, [slow, quick])
    assert numbers(came[0]) == list(range(count))
    quick.send(masked(BINARY, number(0)))
    assert numbers(hear_all(hall.pair, [slow, quick])[0]) == [0]
    statistics = hall.channel.statistics()
    assert statistics.offered == statistics.delivered == 2 * (count + 1)


@pytest.mark.parametrize("together", [1, 7, 40])
def test_one_that_stays_slow_is_cut_off(hall, together):
    """DISCONNECT: 1013 behind what it was sent; the others do not notice."""
    hall.policy = (Policy.DISCONNECT, 8)
    if hall.pair.loop.host is not None:
        pytest.skip("a reactor's own connections have room for a MiB")
    slow, quick = hall.pair.connect(buffer=SMALL), hall.pair.connect()
    total, heard = 0, b""
    while hall.channel.statistics().members == 2:
        for _ in range(together):
            quick.send(masked(BINARY, number(total)))
            total += 1
        hall.pair.turn(3)
        heard += drain(quick)
    hall.pair.turn(3)
    heard += drain(quick)
    assert numbers(heard) == list(range(total))

    *got, end = frames(hear_all(hall.pair, [slow])[0])
    assert end[0] == CLOSE
    assert end[1][:2] == (1013).to_bytes(2, "big")
    assert [int(payload[1:6]) for _, payload in got] == list(range(len(got)))
    assert hall.pair.handler.of("close") == [] or hall.pair.handler.of("close")[0][1] == 1013
    statistics = hall.channel.statistics()
    assert statistics.offered == statistics.delivered + statistics.closed
    assert statistics.closed >= 1


@pytest.mark.parametrize("together", [1, 5, 40])
@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.DROP_NEWEST], ids=repr)
def test_a_gap_is_told_in_its_place(open_hall, policy, together):
    """What a slow member gets is all that was published, but for gaps of the told size."""
    hall = open_hall("both")
    hall.policy = (policy, 8)
    slow, quick = hall.pair.connect(buffer=SMALL), hall.pair.connect()
    for first in range(0, 80, together):
        for i in range(first, first + together):
            quick.send(masked(BINARY, number(i)))
        hall.pair.turn(3)
        drain(quick)
    got = numbers(hear_all(hall.pair, [slow, quick])[0])

    expected, lost = 0, 0
    for one in got:
        if isinstance(one, bytes):
            lost += int(one.removeprefix(b"lost "))
            expected += int(one.removeprefix(b"lost "))
        else:
            assert one == expected
            expected += 1
    assert expected == 80
    assert lost == hall.attachments[1].statistics().dropped > 0
    statistics = hall.channel.statistics()
    assert (statistics.offered, statistics.dropped) == (160, lost)


def test_latest_keeps_one_of_each_key(open_hall):
    """A slow member gets the newest of each key, and no gap."""
    hall = open_hall("callback")
    hall.policy = (Policy.LATEST(lambda item: item[5]), 100)
    slow, quick = hall.pair.connect(buffer=SMALL), hall.pair.connect()
    for i in range(80):
        quick.send(masked(BINARY, number(i)))
        hall.pair.turn(3)
        drain(quick)
    got = numbers(hear_all(hall.pair, [slow, quick])[0])

    start = next(i for i, one in enumerate(got) if i != one)
    assert sorted(got[start:]) == list(range(70, 80)) or set(range(70, 80)) <= set(got)
    assert len(got) < 80


def test_a_slow_member_is_fed_a_part_at_a_time(open_hall, channel):
    """What waits in several channels for one connection comes, all of it."""
    hall = open_hall("callback")
    slow = hall.pair.connect(buffer=SMALL)
    conn = hall.pair.handler.conns[1]
    second = BroadcastChannel()
    second.attach(conn, Policy.DROP_OLDEST, 1_000)
    for i in range(300):
        channel.publish_nowait(number(i))
        second.publish_nowait(number(i))
        hall.pair.turn(1)
    came = numbers(hear_all(hall.pair, [slow])[0])
    assert [one for one in came if not isinstance(one, int)] == []
    assert sorted(came) == sorted(list(range(300)) * 2)


def test_a_slow_member_whose_own_sends_go_on(open_hall, channel):
    """What is sent to it otherwise does not wait for what waits in its place."""
    hall = open_hall("callback")
    slow = hall.pair.connect(buffer=SMALL)
    conn = hall.pair.handler.conns[1]
    for i in range(30):
        channel.publish_nowait(number(i))
        hall.pair.turn(1)
    conn.send("own")
    channel.publish_nowait(number(30))
    came = numbers(hear_all(hall.pair, [slow])[0])
    assert came.index(b"own") < len(came) - 1
    assert [one for one in came if one != b"own"] == list(range(31))


def test_what_is_published_as_one_is_cut_off_goes_to_those_found_slow_with_it(open_hall, channel):
    """A key that raises ends one whose peer is full; another full one is told of that."""
    hall = open_hall("callback")
    hall.policy = (Policy.DROP_OLDEST, 1_000)
    slow, quick, _full = (hall.pair.connect(buffer=size) for size in (SMALL, None, SMALL))
    conns = hall.pair.handler.conns
    hall.attachments[3].detach()
    channel.attach(
        conns[3],
        Policy.LATEST(lambda item: item["no key"]),
        on_detach=lambda: channel.publish_nowait("it has left"),
    )
    for conn in (conns[1], conns[3]):
        while not conn.buffered:
            conn.send(bytes(500))
            hall.pair.turn(1)

    channel.publish_nowait("unkeyed")

    came = [numbers(octets) for octets in hear_all(hall.pair, [slow, quick])]
    assert came[1] == [b"unkeyed", b"it has left"]
    assert [one for one in came[0] if one != bytes(500)] == came[1]


@pytest.mark.parametrize("how", ["reset", "detach", "close"])
def test_a_slow_member_that_ends(open_hall, channel, how):
    """Nothing of it is left."""
    hall = open_hall("callback")
    slow = hall.pair.connect(buffer=SMALL)
    conn = hall.pair.handler.conns[1]
    for i in range(30):
        channel.publish_nowait(number(i))
        hall.pair.turn(1)
    assert hall.attachments[1].statistics().waiting_items > 0
    if how == "reset":
        slow.close()
    elif how == "detach":
        hall.attachments[1].detach()
    else:
        conn.close()
    hall.pair.turn(4)
    assert hall.attachments[1].statistics().waiting_items == 0
    assert not hall.attachments[1].is_attached
    assert channel.publish_nowait("x") == Delivery()


def test_a_message_of_eight_octets_of_length_to_a_slow_member(open_hall, channel):
    """Its frame is finished in the queue, whatever was sent of it."""
    hall = open_hall("callback")
    hall.policy = (Policy.DROP_OLDEST, 4)
    slow = hall.pair.connect(buffer=SMALL)
    for size in (70_000, 200, 70_000, 300):
        channel.publish_nowait(bytes(size))
        hall.pair.turn(1)
    came = frames(hear_all(hall.pair, [slow])[0])
    assert [len(payload) for _, payload in came] == [70_000, 200, 70_000, 300]


def test_items_lost_before_the_channel_are_told_by_every_loop(open_hall, channel):
    """To quick members and slow ones."""
    hall = open_hall("callback")
    slow, quick = hall.pair.connect(buffer=SMALL), hall.pair.connect()
    for i in range(30):
        channel.publish_nowait(number(i))
        hall.pair.turn(1)
    channel.skip(3)
    channel.publish_nowait("after")
    came = [numbers(octets) for octets in hear_all(hall.pair, [slow, quick])]
    assert came == [[*range(30), b"lost 3", b"after"]] * 2


# What may fail.


def test_a_member_that_was_reset_ends_alone(hall):
    """Its own connection, in the middle of a pass."""
    clients = [hall.pair.connect() for _ in range(3)]
    hall.pair.turn()
    clients[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    clients[1].shutdown(socket.SHUT_RD)
    clients[0].send(masked(TEXT, b"p"))
    came = hear_all(hall.pair, [clients[0], clients[2]])

    assert came == [build_frame(TEXT, b"p")] * 2
    assert is_over(clients[1]) or hall.pair.register(s.CONNECTIONS) <= 3


@pytest.mark.skipif(JIT, reason="compiled kernels call libc, not a script")
@pytest.mark.parametrize("at", range(6))
def test_out_of_memory(hall, monkeypatch, at):
    """At whatever allocation of the pass: one connection ends, no octet is wrong."""
    slow, quick = hall.pair.connect(buffer=SMALL), hall.pair.connect()
    calls = 0
    real = _outlet.resize

    def resize(handle, size):
        nonlocal calls
        calls += 1
        return 0 if calls == at + 1 else real(handle, size)

    for module in (_outlet, _fanout):
        monkeypatch.setattr(module, "resize", resize)
    for i in range(30):
        with contextlib.suppress(OSError):
            quick.send(masked(BINARY, number(i)))
        hall.pair.turn(1)
    monkeypatch.undo()
    for octets in hear_all(hall.pair, [slow, quick]):
        got = [one for one in numbers(octets) if isinstance(one, int)]
        assert got == list(range(len(got)))


@pytest.mark.skipif(JIT, reason="compiled kernels call libc, not a script")
def test_out_of_memory_where_batches_are_put_together(open_hall, channel, monkeypatch):
    """A connection in two channels whose queue cannot be made ends, and the other does not."""
    hall = open_hall("callback")
    clients = [hall.pair.connect() for _ in range(2)]
    second = BroadcastChannel()
    for conn in hall.pair.handler.conns.values():
        second.attach(conn)
    real = _outlet.resize
    answers = iter([0])
    monkeypatch.setattr(
        _outlet, "resize", lambda *args: 0 if next(answers, 1) == 0 else real(*args)
    )
    channel.publish_nowait("1")
    second.publish_nowait("2")
    came = hear_all(hall.pair, clients)
    assert sorted(map(len, map(frames, came))) == [0, 2]


@pytest.mark.skipif(JIT, reason="compiled kernels call libc, not a script")
def test_a_slow_member_that_cannot_be_watched(open_hall, channel, monkeypatch):
    """It ends alone."""
    hall = open_hall("callback")
    slow, quick = hall.pair.connect(buffer=SMALL), hall.pair.connect()
    real = _outlet.watch
    monkeypatch.setattr(_outlet, "watch", lambda *_args: -12)
    for i in range(30):
        channel.publish_nowait(number(i))
        hall.pair.turn(1)
    monkeypatch.setattr(_outlet, "watch", real)
    came = hear_all(hall.pair, [slow, quick])
    assert numbers(came[1]) == list(range(30))
    assert is_over(slow)
    assert channel.statistics().members == 1


@pytest.mark.skipif(JIT, reason="compiled kernels call libc, not a script")
@pytest.mark.parametrize("error", [-11, -4, -32])
@pytest.mark.parametrize("at", range(4))
def test_a_send_that_fails(hall, monkeypatch, at, error):
    """EAGAIN, EINTR: it gets all later; EPIPE: it alone ends."""
    clients = [hall.pair.connect() for _ in range(3)]
    calls = 0
    real = _outlet.send

    def send(*args):
        nonlocal calls
        calls += 1
        return error if calls == at + 1 else real(*args)

    monkeypatch.setattr(_outlet, "send", send)
    clients[0].send(masked(BINARY, number(0)) + masked(BINARY, number(1)))
    came = [numbers(octets) for octets in hear_all(hall.pair, clients)]
    whole = sum(one == [0, 1] for one in came)
    assert whole == 3 if error != -32 or at >= 3 else whole == 2

"""The compiled turn over real socket pairs: compiled, or interpreted where coverage is seen."""

import contextlib
import os
import socket

import pytest

import triows
from tests.naive_reception import build_fragments, build_frame, parse_frames
from triows._kernels import slots as s
from triows._kernels._handler import resolve_handler
from triows._reactor import Loop

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = b"\x11\x22\x33\x44"


class Pair:
    """A loop, and clients that talk to it by socket pairs."""

    def __init__(self, handler=0, limits=None, keepalive=None):
        self.loop = self.make_loop(
            handler, limits or triows.Limits(), keepalive or triows.KeepAlive()
        )
        self.clients = []

    def make_loop(self, handler, limits, keepalive):
        """The loop that is tested."""
        return Loop(handler, limits, keepalive)

    def connect(self, leftover=b"", *, buffer=None, **about):
        """A client whose connection the loop has taken over."""
        ours, theirs = socket.socketpair()
        self.clients.append(ours)
        ours.setblocking(False)
        theirs.setblocking(False)
        if buffer:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.loop.add(theirs.detach(), leftover, session=len(self.clients), **about)
        return ours

    def turn(self, times=3):
        """Take turns without waiting."""
        for _ in range(times):
            self.loop.take_turns(0, 1)

    def talk(self, client, octets):
        """Send octets however slowly they are taken, and return what came back."""
        came = b""
        while octets:
            with contextlib.suppress(BlockingIOError):
                octets = octets[client.send(octets) :]
            came += self.hear(client)
        return came + self.hear(client)

    def hear(self, client):
        """What came back, after as many turns as it takes."""
        came = b""
        silences = 0
        while silences < 3:
            self.turn()
            piece = drain(client)
            came += piece
            silences = 0 if piece else silences + 1
        return came

    def register(self, number):
        """A register of the loop."""
        return int(self.loop._registers[number])

    def shift(self, seconds):
        """Let time pass: what is remembered of it moves back."""
        slots = self.loop._slots
        for column in (s.HEARD, s.MESSAGE_SINCE, s.CLOSE_SINCE):
            taken = (slots[:, s.PHASE] != s.FREE) & (slots[:, column] != 0)
            slots[taken, column] -= int(seconds * 1e9)
        self.loop._registers[s.NEXT_SWEEP] = 0
        self.turn()

    def close(self):
        """Close everything."""
        self.loop.close()
        for client in self.clients:
            client.close()


def drain(client):
    """Whatever can be received now; b"EOF" at the end of the stream stands for itself."""
    came = b""
    with contextlib.suppress(BlockingIOError):
        while piece := client.recv(1 << 20):
            came += piece
    return came


def is_over(client):
    """Whether the loop has ended the connection."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.fixture
def start():
    """Make loops, and close them in the end, when nothing may be left."""
    pairs = []

    def make(*args, **options):
        pairs.append(Pair(*args, **options))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()
        assert pair.register(s.CONNECTIONS) == 0
        assert pair.register(s.QUEUED) == 0
        assert pair.register(s.INCOMPLETE) == 0


def masked(opcode, payload=b"", **options):
    """A client's frame."""
    return build_frame(opcode, payload, key=KEY, **options)


def joined(opcode, pieces):
    """A client's fragments of one message."""
    return b"".join(build_fragments(opcode, pieces, key=KEY))


def close_payload(code, reason=b""):
    """The payload of a Close frame."""
    return code.to_bytes(2, "big") + reason


def code_of(reply):
    """The code of the Close frame that ends a reply."""
    opcode, payload = [(frame[0], frame[1]) for frame in frames(reply)][-1]
    assert opcode == CLOSE
    return int.from_bytes(payload[:2], "big")


def frames(octets):
    """(opcode, payload) of each frame that a server sent."""
    found = []
    while octets:
        assert octets[0] & 0x80
        size, start = octets[1], 2
        if size == 126:
            size, start = int.from_bytes(octets[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(octets[2:10], "big"), 10
        found.append((octets[0] & 0xF, octets[start : start + size]))
        assert len(found[-1][1]) == size
        octets = octets[start + size :]
    return found


SIZES = [0, 1, 7, 125, 126, 127, 4_096, 65_507, 65_535, 65_536, 70_000, 300_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_is_echoed(start, size, opcode):
    """A message of any size comes back in one frame with a minimal header (§5.2)."""
    pair = start()
    client = pair.connect()

    reply = pair.talk(client, masked(opcode, b"x" * size))

    assert reply == build_frame(opcode, b"x" * size)


def test_frames_in_one_receive_are_answered_in_one_send(start):
    """However many frames a receive brings, their replies leave together, in order."""
    pair = start()
    client = pair.connect()
    payloads = [bytes([number]) * (number % 140) for number in range(200)]

    reply = pair.talk(client, b"".join(masked(BINARY, payload) for payload in payloads))

    assert frames(reply) == [(BINARY, payload) for payload in payloads]
    assert pair.register(s.SENDS) == pair.register(s.RECEIVES) == 1


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 100])
def test_cuts_change_nothing(start, step):
    """However a stream is cut, the replies are those to the whole (§5.2, §5.4)."""
    stream = (
        masked(TEXT, "héllo".encode())
        + joined(TEXT, [b"gr", "ü".encode()[:1], "ü".encode()[1:] + b"n"])
        + masked(PING, b"are you there")
        + masked(BINARY, b"")
        + masked(BINARY, bytes(300))
        + masked(PONG, b"unasked")
        + masked(CLOSE, close_payload(1000, b"bye"))
    )
    pair = start()
    client = pair.connect()

    reply = b"".join(
        pair.talk(client, stream[at : at + step]) for at in range(0, len(stream), step)
    )

    assert frames(reply) == [
        (TEXT, "héllo".encode()),
        (TEXT, "grün".encode()),
        (PONG, b"are you there"),
        (BINARY, b""),
        (BINARY, bytes(300)),
        (CLOSE, close_payload(1000, b"bye")),
    ]
    assert is_over(client)


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (build_frame(TEXT, b"bare"), 1002),
        (masked(TEXT, b"rsv", rsv=4), 1002),
        (masked(PING, b"rsv", rsv=1), 1002),
        (masked(3), 1002),
        (masked(PING, fin=False), 1002),
        (masked(0, b"stray"), 1002),
        (masked(TEXT, fin=False) + masked(TEXT), 1002),
        (masked(TEXT, fin=False) + masked(0, b"rsv", rsv=4), 1002),
        (masked(CLOSE, b"1"), 1002),
        (masked(CLOSE, close_payload(1005)), 1002),
        (masked(CLOSE, close_payload(1000, b"\xff")), 1007),
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"\xc3", fin=False) + masked(0, b"("), 1007),
        (b"\x81\xfe\x00\x05" + KEY, 1002),
        (b"\x81\xff" + (2**63).to_bytes(8, "big") + KEY, 1002),
        (b"\x82\xff" + (2**62).to_bytes(8, "big") + KEY, 1009),
        (masked(BINARY, bytes(1001)), 1009),
        (masked(BINARY, bytes(600), fin=False) + masked(0, bytes(600)), 1009),
        (b"".join([masked(BINARY, fin=False), *[masked(0, fin=False)] * 5]), 1009),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_the_rfc_refuses_is_refused(start, octets, code, step):
    """A fault is answered with its code; what came before it is answered first (§7.1.7)."""
    pair = start(limits=triows.Limits(max_message=1000, max_fragments=5))
    client = pair.connect()

    reply = pair.talk(client, masked(BINARY, b"first"))
    for at in range(0, len(octets), step):
        reply += pair.talk(client, octets[at : at + step])
    reply += pair.talk(client, masked(BINARY, b"never served"))

    assert frames(reply)[0] == (BINARY, b"first")
    assert len(frames(reply)) == 2
    assert code_of(reply) == code
    assert pair.register(s.CONNECTIONS) == 1  # it lingers until the peer ends
    client.close()
    pair.turn()
    assert pair.register(s.CONNECTIONS) == 0
    assert pair.loop.statistics().failures == 1


def test_statistics_count_frames_and_what_failed(start):
    """Fragments, control frames and replies are frames; errors are counted by name."""
    pair = start()
    client = pair.connect()
    fragments = joined(TEXT, [b"a", b"b"])
    pair.talk(client, fragments + masked(PING, b"") + masked(BINARY, b"whole"))
    pair.talk(client, masked(BINARY, bytes(100_000)))
    before = pair.loop.statistics()
    client.send(masked(BINARY, b"unread, its echo makes the end a reset"))
    pair.turn()
    client.close()
    pair.turn()

    assert before.frames_received == 5
    assert before.frames_sent == 4  # the fragments are answered in one
    assert before.messages_received == before.messages_sent == 3
    assert before.frames_per_turn == pytest.approx(5 / before.turns)
    assert before.errnos == {}
    with pytest.raises(TypeError):
        before.errnos["EPIPE"] = 1
    after = pair.loop.statistics()
    assert (after.errnos, after.system_failures) == ({"ECONNRESET": 1}, 1)
    both = after + before
    assert both.errnos == after.errnos
    assert (both.frames_received, both.turns) == (11, after.turns + before.turns)


def handle(payload, opcode):
    """Do what the first octet says."""
    if len(payload) == 0:
        return 1
    if payload[0] == ord("d"):
        return 0
    if payload[0] == ord("c"):
        return 2
    if payload[0] == ord("u"):
        return 77
    if payload[0] == ord("r"):
        raise ValueError("the handler's own")
    payload[0] = ord("A") + opcode
    return 1


@pytest.fixture(scope="module")
def handler():
    """The address of a handler."""
    return resolve_handler(handle)


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"echo", [(BINARY, b"Ccho")]),
        (b"drop", []),
        (b"close", [(CLOSE, close_payload(1000))]),
        (b"unknown", [(CLOSE, close_payload(1011, b"the handler failed"))]),
        (b"raise", [(CLOSE, close_payload(1011, b"the handler failed"))]),
    ],
)
def test_a_handlers_answer_is_obeyed(start, handler, payload, expected, pieces):
    """ECHO, DISCARD and CLOSE do what they say; anything else closes with 1011."""
    pair = start(handler)
    client, bystander = pair.connect(), pair.connect()
    stream = masked(BINARY, payload)
    if pieces == 2:
        stream = joined(BINARY, [payload[:2], payload[2:]])

    reply = pair.talk(client, masked(BINARY, b"before") + stream)

    assert frames(reply) == [(BINARY, b"Cefore"), *expected]
    assert frames(pair.talk(bystander, masked(TEXT, b"still here"))) == [(TEXT, b"Btill here")]


def test_after_the_handler_closed_nothing_is_served(start, handler):
    """A connection that its handler closed waits for the peer's Close and for nothing else."""
    pair = start(handler)
    client = pair.connect()

    reply = pair.talk(client, masked(TEXT, b"close") + masked(TEXT, b"more") + masked(PING))
    reply += pair.talk(client, masked(TEXT, b"mo", fin=False) + masked(0, b"re"))
    assert not is_over(client)
    reply += pair.talk(client, masked(CLOSE, close_payload(1000)))

    assert frames(reply) == [(CLOSE, close_payload(1000))]
    assert is_over(client)


@pytest.mark.parametrize("cut", range(1, 11))
@pytest.mark.parametrize("kept", [1, 3, 7])
def test_the_close_behind_one_of_the_handlers_is_read_as_it_was_sent(start, handler, cut, kept):
    """Our Close overwrites nothing of what came in the same receive."""
    message, theirs = masked(TEXT, b"close"), masked(CLOSE, close_payload(1000))
    pair = start(handler)
    client = pair.connect()

    reply = pair.talk(client, message[:cut])
    reply += pair.talk(client, message[cut:] + theirs[:kept])
    reply += pair.talk(client, theirs[kept:])

    assert frames(reply) == [(CLOSE, close_payload(1000))]
    assert is_over(client)
    assert pair.register(s.CONNECTIONS) == pair.register(s.FAILURES) == 0


def test_a_fault_after_the_handler_closed_sends_no_second_close(start, handler):
    """Nothing follows a Close, not even another (§5.5.1)."""
    pair = start(handler)
    client = pair.connect()

    reply = pair.talk(client, masked(TEXT, b"close") + build_frame(TEXT, b"bare"))

    assert frames(reply) == [(CLOSE, close_payload(1000))]


@pytest.mark.parametrize("size", [0, 5, 70_000, 200_000])
def test_leftover_octets_are_served_first(start, size):
    """What came behind the request is served before anything else, whatever its size."""
    pair = start()
    client = pair.connect(masked(BINARY, bytes(size)) + masked(TEXT, b"cut")[:4])

    reply = pair.hear(client) + pair.talk(client, masked(TEXT, b"cut")[4:])

    assert frames(reply) == [(BINARY, bytes(size)), (TEXT, b"cut")]


def test_leftover_behind_a_fault_is_thrown_away(start):
    """Once the leftover has ended the connection, the rest of it is not served."""
    pair = start()
    client = pair.connect(masked(CLOSE) + masked(BINARY, bytes(70_000)))

    assert frames(pair.hear(client)) == [(CLOSE, b"")]
    assert is_over(client)


@pytest.mark.parametrize("cut", range(65_530, 65_536))
def test_leftover_is_cut_anywhere(start, cut):
    """A header that leftover octets are fed in two pieces around is read as one."""
    stream = masked(BINARY, bytes(cut - 8)) + masked(TEXT, b"x" * 300) + masked(TEXT, b"end")
    pair = start()
    client = pair.connect(stream)

    assert frames(pair.hear(client)) == [
        (BINARY, bytes(cut - 8)),
        (TEXT, b"x" * 300),
        (TEXT, b"end"),
    ]


@pytest.mark.parametrize("ending", [masked(3), masked(TEXT, b"raise"), masked(TEXT, b"unknown")])
def test_what_follows_a_failure_is_not_kept(start, handler, ending):
    """However much follows a failure in the same receive, nothing of it hangs on the slot."""
    pair = start(handler)
    client = pair.connect()
    client.send(masked(TEXT, b"drop") + ending + masked(TEXT, b"drop") * 5_000)
    pair.turn()

    assert pair.loop._slots[0, s.PHASE] == s.LINGERING
    assert pair.loop._slots[0, s.CARRY_SIZE] == 0
    assert len(frames(drain(client))) == 1


def test_leftover_behind_a_failure_is_not_kept(start):
    """The same for what is fed."""
    pair = start()
    pair.connect(masked(3) + bytes(200_000))

    assert pair.loop._slots[0, s.PHASE] == s.LINGERING
    assert pair.loop._slots[0, s.CARRY_SIZE] == 0


@pytest.mark.parametrize("carried", [0, 2, 6])
@pytest.mark.parametrize("size", [0, 2])
def test_a_long_length_is_refused_where_a_region_is_full(start, carried, size):
    """A length that is not minimal is refused, however many octets follow its frame (§5.2)."""
    frame = b"\x82\xfe" + size.to_bytes(2, "big") + KEY + bytes(size)
    pair = start()
    client = pair.connect()
    client.send(frame[:carried])
    pair.turn()
    reply = pair.talk(client, (frame + masked(BINARY, bytes(100)) * 1_000)[carried:])

    assert len(frames(reply)) == 1
    assert code_of(reply) == 1002


def test_what_the_kernel_does_not_take_is_queued_in_order(start):
    """A slow reader gets everything, in order; meanwhile it is not read beyond the mark."""
    pair = start(limits=triows.Limits(send_queue_octets=10_000))
    client = pair.connect(buffer=4_096)
    stream = b"".join(masked(BINARY, bytes([number]) * 3_000) for number in range(100))
    sent = 0
    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            sent += client.send(stream[sent:])
        pair.turn()
    assert 10_000 < pair.register(s.QUEUED) < 10_000 + 2 * 65_536
    assert pair.loop._slots[0, s.INTEREST] == 4  # EPOLLOUT alone

    reply = b""
    while len(reply) < 100 * 3_004:
        with contextlib.suppress(BlockingIOError):
            sent += client.send(stream[sent:]) if sent < len(stream) else 0
        pair.turn()
        reply += drain(client)

    assert frames(reply) == [(BINARY, bytes([number]) * 3_000) for number in range(100)]
    assert pair.loop._slots[0, s.INTEREST] == 1  # EPOLLIN alone again


def test_a_close_waits_for_the_queue(start):
    """A Close leaves behind what was queued before it, and then the socket is closed."""
    pair = start()
    client = pair.connect(buffer=4_096)

    for _ in range(20):
        client.send(masked(BINARY, bytes(3_000)))
        pair.turn()
    assert pair.register(s.QUEUED)
    client.send(masked(CLOSE, close_payload(1001)))
    reply = pair.hear(client)
    while not is_over(client):
        reply += pair.hear(client)

    assert frames(reply)[-1] == (CLOSE, close_payload(1001))
    assert len(frames(reply)) == 21


def test_a_peer_that_ends_its_stream_behind_its_close_gets_what_is_queued(start):
    """Both sides close at once, the peer ends its side then, and still reads the rest."""
    pair = start()
    client = pair.connect(buffer=4_096)
    for _ in range(6):
        client.send(masked(BINARY, bytes(10_000)))
        pair.turn()
    pair.loop.say_goodbye()
    assert pair.register(s.QUEUED) > 30_000
    client.send(masked(CLOSE, close_payload(1001)))
    client.shutdown(socket.SHUT_WR)

    replies = frames(pair.hear(client))

    assert replies[:-1] == [(BINARY, bytes(10_000))] * 6
    assert replies[-1] == (CLOSE, close_payload(1001, b"the server is going away"))
    assert is_over(client)


def test_a_fault_waits_for_the_queue(start):
    """An error's Close leaves behind what was queued before it."""
    pair = start()
    client = pair.connect(buffer=4_096)

    for _ in range(20):
        client.send(masked(BINARY, bytes(3_000)))
        pair.turn()
    client.send(build_frame(TEXT, b"bare"))
    pair.turn()
    reply = b""
    while not reply.endswith(b"masked"):
        reply += pair.hear(client)

    assert code_of(reply) == 1002


def test_a_ping_flood_from_a_peer_that_does_not_read_is_bounded(start):
    """Pongs pile up to the mark, and then the peer is no longer read."""
    pair = start()
    client = pair.connect(buffer=4_096)
    flood = masked(PING, bytes(125)) * 1_000

    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            client.send(flood)
        pair.turn()

    assert pair.register(s.QUEUED) < 3 * 65_536


@pytest.mark.parametrize("count", [1, 3])
def test_the_end_of_a_peer_is_the_end_of_its_connection_alone(start, count):
    """EOF, in mid-frame or not, ends one connection and frees what it held."""
    pair = start()
    bystander = pair.connect()
    for _ in range(count):
        client = pair.connect()
        pair.talk(client, masked(BINARY, b"x", fin=False) + masked(0, b"yz")[:4])
        client.close()
    pair.turn()

    assert pair.register(s.CONNECTIONS) == 1
    assert frames(pair.talk(bystander, masked(TEXT, b"here"))) == [(TEXT, b"here")]


def test_a_slot_is_used_again_under_another_generation(start):
    """An event that was fetched for a connection that has ended reaches no successor."""
    pair = start()
    first = pair.connect()
    first.send(masked(TEXT, b"too late"))
    events, registers = pair.loop._arrays[5], pair.loop._registers
    events[0] = [1, 0, 0] if events.shape[1] == 3 else [1, 0, 0, 0]
    pair.loop._arrays[1][0, s.GENERATION] += 1  # as if it had ended since
    registers[s.CURSOR], registers[s.EVENT_COUNT] = 0, 1

    assert pair.loop.take_turns(0, 1) == 1
    assert pair.register(s.RECEIVES) == 0
    pair.loop._arrays[1][0, s.GENERATION] -= 1
    assert frames(pair.hear(first)) == [(TEXT, b"too late")]
    first.close()
    pair.turn()
    second = pair.connect()
    assert pair.loop._slots[0, s.GENERATION] == 1
    assert frames(pair.talk(second, masked(TEXT, b"mine"))) == [(TEXT, b"mine")]


def test_a_full_loop_takes_no_more(start):
    """There are as many slots as connections are allowed; one too many is closed."""
    pair = start(limits=triows.Limits(max_connections=2))
    pair.connect()
    pair.connect()

    with pytest.raises(OSError, match="Too many open files"):
        pair.connect()


def test_what_epoll_refuses_is_closed(start):
    """A descriptor that cannot be watched, a file's, is closed with the reason."""
    pair = start()
    descriptor = os.open(__file__, os.O_RDONLY)

    with pytest.raises(PermissionError):
        pair.loop.add(descriptor)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_slot_whose_descriptor_epoll_refused_is_free(start):
    """No sweep finds anyone there, whose number may be that of another file by now."""
    pair = start()
    pair.connect().close()
    pair.connect()
    pair.turn()
    before = list(pair.loop._taken_slots())

    with pytest.raises(PermissionError):
        pair.loop.add(os.open(__file__, os.O_RDONLY))

    assert list(pair.loop._taken_slots()) == before


def test_a_quiet_peer_is_pinged_and_then_dropped(start):
    """Silence for the interval brings a Ping, silence after that the end (§5.5.2)."""
    pair = start(keepalive=triows.KeepAlive(interval=20, timeout=10))
    quiet, lively = pair.connect(), pair.connect()

    pair.shift(19)
    assert drain(quiet) == b""
    pair.shift(2)
    assert frames(drain(quiet)) == frames(drain(lively)) == [(PING, b"")]
    pair.talk(lively, masked(PONG))
    pair.shift(1)
    assert drain(quiet) == b""  # one Ping is enough
    assert pair.register(s.CONNECTIONS) == 2
    pair.shift(10)

    assert is_over(quiet)
    assert not is_over(lively)


@pytest.mark.parametrize("first", [b"x", b""])
def test_a_message_that_is_never_finished_is_refused(start, first):
    """A message has a deadline from its first octet, pings between its pieces or not."""
    pair = start(limits=triows.Limits(message_timeout=60))
    client = pair.connect()

    pair.talk(client, masked(BINARY, first, fin=False))
    pair.shift(30)
    pair.talk(client, masked(PING) + masked(0, b"y", fin=False))
    drain(client)
    pair.shift(31)

    assert code_of(pair.hear(client)) == 1008


@pytest.mark.parametrize("pieces", [[masked(TEXT, b"abcd")], [masked(PING), masked(TEXT, b"abcd")]])
def test_each_message_has_its_own_time(start, pieces):
    """Receives that all end within a header are no message that is never finished."""
    pair = start(limits=triows.Limits(message_timeout=60))
    client = pair.connect()
    stream = b"".join(pieces)

    client.send(stream[:3])
    for _ in range(4):
        pair.shift(30)
        drain(client)
        client.send(stream[3:] + stream[:3])
        pair.turn()
        assert frames(drain(client))[-1] == (TEXT, b"abcd")


@pytest.mark.parametrize("ending", [masked(3), masked(TEXT, b"close")])
def test_a_peer_that_does_not_close_is_dropped(start, handler, ending):
    """After our Close the peer has the close timeout, and no longer (§7.1.1)."""
    pair = start(handler, limits=triows.Limits(close_timeout=10))
    client = pair.connect()
    pair.talk(client, ending)

    pair.shift(9)
    assert pair.register(s.CONNECTIONS) == 1
    pair.shift(2)
    assert pair.register(s.CONNECTIONS) == 0


def test_goodbye_goes_to_all(start):
    """At the end every peer is told 1001, and those that answer are closed."""
    pair = start()
    clients = [pair.connect() for _ in range(3)]
    pair.talk(clients[0], masked(TEXT, b"unfinished", fin=False))

    pair.loop.say_goodbye()
    replies = [pair.hear(client) for client in clients]
    assert [code_of(reply) for reply in replies] == [1001] * 3
    pair.loop.say_goodbye()  # no second time
    for client in clients:
        assert pair.talk(client, masked(CLOSE, close_payload(1001))) == b""

    assert all(map(is_over, clients))


def test_unfinished_messages_are_bounded_over_all_connections(start):
    """The connection that would exceed the loop's bound is told to try again later."""
    pair = start(limits=triows.Limits(max_incomplete=100))
    first, second = pair.connect(), pair.connect()

    pair.talk(first, masked(BINARY, bytes(80), fin=False))
    assert code_of(pair.talk(second, masked(BINARY, bytes(30), fin=False))) == 1013
    assert frames(pair.talk(first, masked(0, bytes(10)))) == [(BINARY, bytes(90))]


def test_a_large_frame_is_bounded_over_all_connections_too(start):
    """What is received straight into a message's block counts like everything else."""
    pair = start(limits=triows.Limits(max_incomplete=50_000))
    client = pair.connect()

    with contextlib.suppress(ConnectionError):
        reply = pair.talk(client, masked(BINARY, bytes(100_000)))

    assert code_of(reply) == 1013


def test_bad_text_in_a_large_frame_is_refused_as_it_comes(start):
    """Text is refused at its first bad octet, in the middle of a frame (§8.1)."""
    pair = start()
    client = pair.connect()

    reply = pair.talk(client, masked(TEXT, b"x" * 150_000 + b"\xff" + b"y" * 100_000)[:200_000])

    assert code_of(reply) == 1007


def test_a_turn_has_a_budget_and_leaves_the_rest(start):
    """Events beyond the budget wait for the next turn, and none is lost; every few it is looked."""
    pair = start()
    clients = [pair.connect() for _ in range(40)]
    pair.loop._registers[s.BUDGET] = -1
    for client in clients:
        client.send(masked(TEXT, b"hi"))

    served = [pair.loop.take_turns(0, 1) for _ in range(10)]

    assert served == [4] * 10
    assert not pair.loop.has_events
    assert all(frames(drain(client)) == [(TEXT, b"hi")] for client in clients)


def test_waking_ends_the_turns(start):
    """A wake-up ends an endless run of turns; many wake-ups are one."""
    pair = start()
    pair.connect()
    pair.loop.wake()
    pair.loop.wake()

    pair.loop.take_turns(10)

    assert pair.loop.take_turns(0, 1) == 0


def test_turns_end_with_the_last_connection(start):
    """A loop that is to leave when it is empty does not wait for anything else."""
    pair = start()
    client = pair.connect()
    pair.loop.leave_when_empty(True)
    client.close()

    pair.loop.take_turns(10)

    assert pair.register(s.CONNECTIONS) == 0


def test_an_idle_connection_is_a_row_of_less_than_512_octets():
    """What a connection costs when nothing happens on it."""
    assert s.SLOT_SIZE * 8 < 512


def test_the_frames_of_the_model_are_those_of_the_wire():
    """The helper that reads replies agrees with the model's."""
    octets = build_frame(TEXT, b"a") + build_frame(BINARY, bytes(70_000))

    assert [payload for _, payload in frames(octets)] == [b"a", bytes(70_000)]
    assert len(list(parse_frames(octets))) == 2

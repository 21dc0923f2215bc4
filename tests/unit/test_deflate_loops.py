"""Loops whose connections compress: rows, callbacks, compiled handlers, channels (RFC 7692 §6)."""

import math

import pytest
import trio

import triows
from tests.naive_reception import build_fragments, parse_frames
from tests.unit.callback_pairs import FAILED as HANDLER_FAILED
from tests.unit.callback_pairs import echo, starting
from tests.unit.test_channel_loop import Bench
from tests.unit.test_deflate_engine import RSV1, deflated, inflated, make_deflate
from tests.unit.test_turn import BINARY, CLOSE, PING, PONG, TEXT, frames, is_over, masked
from triows import Limits, PreparedMessage
from triows._engine import Closed, Deflated, Failed, InflateError, Message, Part
from triows._kernels import ENDINGS, INVALID_DEFLATE, resolve_handler
from triows._kernels import slots as s
from triows._reactor import _callbacks

HELLO = b"Hello, Hello, Hello"


@pytest.fixture
def start(warm):
    """Make loops of callbacks, and close them in the end, when nothing may be left."""
    with starting() as make:
        yield make


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Callbacks have all the time that they need, however slow the machine is."""
    monkeypatch.setattr(_callbacks, "BUDGET", math.inf)


def connect(pair, **settings):
    """A client whose connection compresses everything, unless told otherwise."""
    limits = settings.pop("limits", None)
    deflate = make_deflate(limits=limits, **{"threshold": 0, **settings})
    return pair.connect(deflate=deflate)


def compressed(opcode, message, **wrongs):
    """A client's compressed message."""
    return masked(opcode, deflated(message), rsv=RSV1, **wrongs)


def opened(octets):
    """The frames of a server's octets, inflated where they say that they are compressed."""
    return [
        (first & 0xF, inflated(payload) if first & 0x40 else payload)
        for first, payload in parse_frames(octets)
    ]


def close_of(code):
    """The Close that tells of an ending."""
    number, reason = ENDINGS[code]
    return (CLOSE, int(number).to_bytes(2, "big") + reason.encode())


# Callbacks.


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("size", [0, 1, 300, 70_000, 1_000_000])
def test_a_compressed_message_is_handled_and_echoed(start, size, debug):
    """The handler gets it inflated, once and whole; its echo is compressed."""
    pair = start(frame=echo, debug=debug)
    client = connect(pair)

    reply = pair.talk(client, compressed(BINARY, b"x" * size))

    assert reply[0] == 0xC2
    assert opened(reply) == [(BINARY, b"x" * size)]
    assert pair.handler.of("frame") == [(1, b"x" * size, BINARY)]


@pytest.mark.parametrize("step", [1, 3, 23, 29, 31, 41, 1 << 20])
def test_batches_and_cuts_change_nothing(start, step):
    """Compressed and plain messages, fragments and pings are handled in the order they came."""
    octets = deflated(HELLO)
    pieces = build_fragments(TEXT, [octets[:4], octets[4:]], key=b"\x11\x22\x33\x44")
    pieces[0] = masked(TEXT, octets[:4], rsv=RSV1, fin=False)
    stream = (
        compressed(TEXT, b"one " * 9)
        + masked(TEXT, b"plain")
        + b"".join([pieces[0], masked(PING, b"?"), pieces[1]])
        + masked(BINARY, b"more")
        + compressed(BINARY, bytes(300))
    )
    pair = start(frame=echo)
    client = connect(pair)

    reply = b"".join(
        pair.talk(client, stream[at : at + step]) for at in range(0, len(stream), step)
    )

    assert opened(reply) == [
        (TEXT, b"one " * 9),
        (TEXT, b"plain"),
        (PONG, b"?"),
        (TEXT, HELLO),
        (BINARY, b"more"),
        (BINARY, bytes(300)),
    ]


@pytest.mark.parametrize("is_last_compressed", [False, True])
def test_the_end_of_a_message_may_come_with_the_next_of_the_other_kind(start, is_last_compressed):
    """A message is what its own first frame says, whatever has begun behind it."""
    first, last = bytes(40_000), b"last" * 9
    one, two = compressed(BINARY, first), masked(TEXT, last)
    if is_last_compressed:
        one, two = masked(BINARY, first), compressed(TEXT, last)
    pair = start(frame=echo)
    client = connect(pair)
    for cut in (3, 9, len(one) - 1):
        reply = pair.talk(client, one[:cut]) + pair.talk(client, one[cut:] + two)
        assert opened(reply) == [(BINARY, first), (TEXT, last)]


def test_a_batch_of_compressed_messages_leaves_in_one_send(start):
    """However many come in a receive, their echoes leave together, in order."""
    pair = start(frame=echo)
    client = connect(pair)
    messages = [bytes([number]) * number for number in range(100)]

    reply = pair.talk(client, b"".join(compressed(BINARY, message) for message in messages))

    assert opened(reply) == [(BINARY, message) for message in messages]
    assert pair.register(s.SENDS) == pair.register(s.RECEIVES)


def test_a_receive_of_what_may_be_compressed_is_small(start):
    """What a turn may have to inflate of one peer is bounded by what it receives of it."""
    pair = start(frame=echo)
    client, plain = connect(pair), pair.connect()
    before = pair.register(s.RECEIVES)
    pair.talk(plain, masked(BINARY, bytes(20_000)))
    between = pair.register(s.RECEIVES)
    pair.talk(client, masked(BINARY, bytes(20_000)))

    assert between - before == 1
    assert pair.register(s.RECEIVES) - between >= 20_000 // s.INFLATED_SIZE


def test_contexts_go_on_over_callbacks_and_sends(start):
    """What is sent to a connection from wherever is compressed in the order in which it leaves."""
    conns = []

    def handle(conn, payload, opcode):
        conns.append(conn)
        for other in set(conns):
            other.send(b"sent " + bytes(payload))
        conn.echo()
        conn.send(b"also " + bytes(payload))

    pair = start(frame=handle)
    clients = [connect(pair, takes_over=True, threshold=30) for _ in range(2)]
    deflates = [make_deflate(is_server=False, takes_over=True, threshold=0) for _ in clients]
    came = [[], []]
    expected = [[], []]
    for turn in range(6):
        message = b"message %d " % (turn // 2) * (1 + 3 * turn)
        index = turn % 2
        frame = masked(BINARY, deflates[index].deflater.compress(message), rsv=RSV1)
        pair.talk(clients[index], b"")
        octets = pair.talk(clients[index], frame)
        for which, client in enumerate(clients):
            octets_of = octets if which == index else pair.hear(client)
            for first, payload in parse_frames(octets_of):
                inflater = deflates[which].inflater
                came[which].append(inflater.inflate(payload) if first & 0x40 else payload)
        if turn == 0:
            expected[0] += [b"sent " + message, b"also " + message, message]
        else:
            expected[index] += [b"sent " + message, b"also " + message, message]
            expected[1 - index].append(b"sent " + message)

    assert [sorted(one) for one in came] == [sorted(one) for one in expected]
    assert [len(one) for one in came] == [len(one) for one in expected]


@pytest.mark.parametrize("compress", [None, True, False])
def test_a_connection_sends_compressed_what_it_is_told_to(start, compress):
    """The flag goes before the threshold; a prepared message has one of its own."""

    def handle(conn, _payload, _opcode):
        conn.send("short", compress=compress)
        conn.send(b"long" * 99, TEXT, compress=compress)
        conn.send(PreparedMessage("prepared" * 99, compress=compress))

    pair = start(frame=handle)
    reply = pair.talk(connect(pair, threshold=100), masked(TEXT, b"go"))

    assert [first for first, _ in parse_frames(reply)] == [
        0xC1 if compress else 0x81,
        0x81 if compress is False else 0xC1,
        0x81 if compress is False else 0xC1,
    ]
    assert opened(reply) == [(TEXT, b"short"), (TEXT, b"long" * 99), (TEXT, b"prepared" * 99)]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\xff" * 9, INVALID_DEFLATE),
        (deflated(b"\xff"), -13),
        (deflated(bytes(10_001)), -11),
    ],
    ids=["garbage", "bad text", "too big"],
)
def test_what_cannot_be_inflated_ends_its_connection_behind_what_came_before(start, payload, code):
    """Messages before it are answered, those behind it are not, and others are not hurt."""
    limits = Limits(max_message=10_000)
    pair = start(frame=echo)
    client, other = connect(pair, limits=limits), connect(pair)

    reply = pair.talk(
        client,
        compressed(TEXT, b"before") + masked(TEXT, payload, rsv=RSV1) + compressed(TEXT, b"behind"),
    )

    assert opened(reply) == [(TEXT, b"before"), close_of(code)]
    assert pair.handler.messages == [b"before"]
    client.close()
    pair.turn()
    number, reason = ENDINGS[code]
    assert pair.handler.of("close") == [(1, number, reason)]
    assert opened(pair.talk(other, compressed(TEXT, b"fine"))) == [(TEXT, b"fine")]


def test_a_handler_that_raises_over_a_compressed_message_ends_its_connection(start):
    """With 1011, as over any other; what Ctrl-C raises gets out."""

    def handle(_conn, payload, _opcode):
        raise ValueError if payload[0] == ord("v") else KeyboardInterrupt

    pair = start(frame=handle)
    assert opened(pair.talk(connect(pair), compressed(TEXT, b"value"))) == [HANDLER_FAILED]
    assert pair.reports == [("on_frame failed", ValueError)]
    second = connect(pair)
    with pytest.raises(KeyboardInterrupt):
        pair.talk(second, compressed(TEXT, b"key"))
    assert opened(pair.hear(second)) == [HANDLER_FAILED]


def test_a_close_goes_behind_the_echo_of_a_compressed_message(start):
    """And what comes behind it is not handled."""

    def handle(conn, _payload, _opcode):
        conn.echo()
        conn.close(1000, "done")

    pair = start(frame=handle)
    client = connect(pair)
    reply = pair.talk(client, compressed(TEXT, HELLO) + compressed(TEXT, b"behind"))

    assert opened(reply) == [(TEXT, HELLO), (CLOSE, b"\x03\xe8done")]
    assert pair.handler.messages == [HELLO]
    pair.talk(client, masked(CLOSE, b"\x03\xe8"))
    assert is_over(client)


def test_a_payload_that_is_kept_is_found_out(start):
    """With debug, what was kept of a compressed message is overwritten, whatever came of it."""
    kept = []

    def handle(conn, payload, _opcode):
        kept.append(payload)
        conn.echo()

    pair = start(frame=handle, debug=True)
    assert opened(pair.talk(connect(pair), compressed(TEXT, HELLO))) == [(TEXT, HELLO)]
    assert set(bytes(kept[0])) == {_callbacks.POISON}


@pytest.mark.parametrize("is_compressed_first", [False, True])
def test_a_callback_gets_a_message_as_the_kind_that_it_is(start, is_compressed_first):
    """Whatever begins in the receive in which it ends."""
    pair = start(frame=echo)
    client = connect(pair)
    plain, packed = masked(BINARY, b"plain" * 50), compressed(BINARY, HELLO * 50)
    first, second = (packed, plain) if is_compressed_first else (plain, packed)
    expected = [b"plain" * 50, HELLO * 50]
    if is_compressed_first:
        expected.reverse()

    pair.talk(client, first[:20])
    pair.talk(client, first[20:] + second)
    assert pair.handler.of("frame") == [(1, one, BINARY) for one in expected]


# Compiled handlers.


def answer(payload, _opcode):
    """Answer as the first octet says; change what is echoed."""
    if len(payload) == 0:
        return 1
    kind = int(payload[0]) - 48
    if kind == 1:
        payload[0] = 33
    return kind


def test_a_compiled_handler_answers_compressed_messages(start):
    """It is asked about each, inflated, as about any other; what it delivers goes to Python."""
    pair = start(compiled=resolve_handler(answer), frame=echo)
    client = connect(pair)

    reply = pair.talk(
        client,
        b"".join(compressed(TEXT, one) for one in (b"0 drop", b"1 echo", b"", b"3 to Python"))
        + masked(TEXT, b"1 plain"),
    )

    assert opened(reply) == [
        (TEXT, b"! echo"),
        (TEXT, b""),
        (TEXT, b"3 to Python"),
        (TEXT, b"! plain"),
    ]
    assert pair.handler.messages == [b"3 to Python"]


@pytest.mark.parametrize(
    ("message", "close"), [(b"2", (CLOSE, b"\x03\xe8")), (b"9", HANDLER_FAILED)]
)
def test_a_compiled_handler_ends_a_connection_over_a_compressed_message(start, message, close):
    """CLOSE closes with 1000, and what is no answer with 1011."""
    pair = start(compiled=resolve_handler(answer), frame=echo)

    reply = pair.talk(connect(pair), compressed(TEXT, message) + compressed(TEXT, b"1 more"))

    assert frames(reply) == [close]


# Channels.


@pytest.fixture
def meet(warm):
    """Make loops of channels, and close them in the end."""
    benches = []

    def make(**options):
        deflate = make_deflate(**{"threshold": 0, **options})
        benches.append(Bench(deflate=deflate))
        return benches[-1]

    yield make
    for bench in benches:
        bench.loop.close()
        bench.peer.close()


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_a_channel_gets_compressed_messages_as_they_are(meet, size):
    """Whole, joined from fragments or not, beside others, in order."""
    bench = meet()
    octets = deflated(bytes(range(256)) * size)
    half = len(octets) // 2
    events = bench.tell(
        masked(BINARY, octets, rsv=RSV1)
        + masked(TEXT, b"plain")
        + masked(BINARY, octets[:half], rsv=RSV1, fin=False)
        + masked(0, octets[half:])
    )

    assert events == [Deflated(octets, BINARY), Message("plain", 5), Deflated(octets, BINARY)]


@pytest.mark.parametrize("is_compressed_first", [False, True])
def test_the_end_of_a_message_is_not_taken_for_the_kind_of_the_next(meet, is_compressed_first):
    """One that came in two receives, the second of which begins another, of the other kind."""
    bench = meet()
    octets = deflated(bytes(range(256)) * 99)
    plain, packed = masked(BINARY, b"plain" * 50), masked(BINARY, octets, rsv=RSV1)
    expected = [Message(b"plain" * 50, 250), Deflated(octets, BINARY)]
    first, second = (packed, plain) if is_compressed_first else (plain, packed)
    if is_compressed_first:
        expected.reverse()

    assert bench.tell(first[:100]) == []
    assert bench.tell(first[100:] + second) == expected
    assert bench.tell(first[:100]) == []
    assert bench.tell(first[100:] + second[:100]) == expected[:1]
    assert bench.tell(second[100:]) == expected[1:]


def test_a_channel_sends_compressed(meet):
    """Messages, prepared ones and messages in parts; control frames as they are."""
    bench = meet()
    bench.session.send(TEXT, HELLO)
    bench.session.send_prepared(PreparedMessage(HELLO * 20))
    bench.session.send_prepared(PreparedMessage(HELLO, compress=False))
    bench.session.send_part(TEXT, b"a", is_last=False)
    bench.session.send_part(TEXT, b"", is_last=True)
    bench.session.send_part(TEXT, b"a", is_last=True, compress=False)
    bench.session.ping(b"?")
    came = parse_frames(bench.hear())

    assert [first for first, _ in came] == [0xC1, 0xC2, 0x82, 0x41, 0x80, 0x81, 0x89]
    payloads = [payload for _, payload in came]
    assert inflated(payloads[0]) == HELLO
    assert inflated(payloads[3] + payloads[4]) == b"a"


def test_a_channel_gets_a_compressed_message_in_parts(meet):
    """From when it asks; what is held already is the first of them."""
    bench = meet()
    octets = deflated(bytes(range(256)) * 99)
    assert bench.tell(masked(BINARY, octets[:50], rsv=RSV1, fin=False)) == []

    assert bench.session.begin_parts() == Deflated(octets[:50], BINARY, is_last=False)
    assert bench.tell(masked(0, octets[50:90], fin=False)) == [
        Deflated(octets[50:90], BINARY, is_last=False)
    ]
    assert bench.tell(masked(0, octets[90:])) == [Deflated(octets[90:], BINARY)]
    assert bench.tell(masked(BINARY, octets, rsv=RSV1)) == [Deflated(octets, BINARY)]
    assert bench.session.begin_parts() is None
    assert bench.tell(masked(TEXT, b"plain")) == [Part(b"plain", TEXT, is_last=True)]


def test_parts_of_a_compressed_message_that_are_no_longer_wanted_are_joined(meet):
    """The loop made rows of them before it knew."""
    bench = meet()
    octets = deflated(bytes(range(256)) * 9)
    events = []
    bench.session.take_deflated(s.PART + BINARY, memoryview(octets[:9]), events)
    bench.session.take_deflated(s.PART + BINARY, memoryview(octets[9:20]), events)
    assert events == []

    bench.session.take_deflated(BINARY, memoryview(octets[20:]), events)
    assert events == [Deflated(octets, BINARY)]


def test_a_channel_ends_a_connection_over_what_cannot_be_inflated(meet):
    """The peer is told behind what was sent before, and the session says why it ended."""
    bench = meet()
    bench.session.send(TEXT, b"before")
    bench.session.fail(InflateError(INVALID_DEFLATE))
    bench.session.fail(InflateError(INVALID_DEFLATE))

    assert opened(bench.hear()) == [(TEXT, b"before"), close_of(INVALID_DEFLATE)]
    assert bench.session.outcome == Failed(*ENDINGS[INVALID_DEFLATE])
    assert not bench.session.is_open
    bench.peer.close()
    bench.turn()
    bench.session.fail(InflateError(INVALID_DEFLATE))
    assert bench.loop.connections == 0


def test_a_channel_ends_a_connection_from_within_a_turn(meet):
    """What was asked for while rows are handed out is done when they are."""
    bench = meet(takes_over=True)
    real = bench.sink.deliver

    def deliver(events):
        real(events)
        if any(type(event) is Deflated for event in events):
            bench.session.fail(InflateError(INVALID_DEFLATE))

    bench.sink.deliver = deliver
    bench.session.deflate.deflater.compress(b"a")
    events = bench.tell(masked(TEXT, b"\xff", rsv=RSV1))

    assert events == [Deflated(b"\xff", TEXT), bench.session.outcome]
    assert opened(bench.hear()) == [close_of(INVALID_DEFLATE)]
    assert bench.session.deflate.deflater._context is None


def test_a_channel_that_has_closed_still_gets_what_came_before_the_peers_close(meet):
    """The peer's Close ends it; messages before that are there, compressed or not."""
    bench = meet()
    bench.session.close(1000, "")
    events = bench.tell(compressed(TEXT, HELLO) + masked(CLOSE, b"\x03\xe8"))

    assert events == [Deflated(deflated(HELLO), TEXT), Closed(1000, "")]


# The reactor.

COMPILED_ECHO = triows.compiled(lambda _payload, _opcode: 1)


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("kind", ["callback", "compiled", "echo"])
@pytest.mark.parametrize("takes_over", [False, True])
async def test_a_reactor_negotiates_and_compresses(warm, kind, threads, takes_over):
    """Every kind of handler, in Trio's thread and in one of its own."""
    handlers = {
        "callback": triows.handler_fn(lambda *_: triows.Response.ECHO),
        "compiled": COMPILED_ECHO,
        "echo": None,
    }
    settings = triows.Deflate(
        server_context_takeover=takes_over, client_context_takeover=takes_over
    )
    messages = ["text " * 100, b"", b"octets " * 20_000, "x"]
    with trio.fail_after(20):
        async with triows.open_reactor(
            handlers[kind], threads=threads, deflate=settings, shutdown_grace=0.1
        ) as reactor:
            await reactor.listen(0)
            url = f"ws://127.0.0.1:{reactor.port}"
            async with triows.open_websocket(url, deflate=settings) as ws:
                assert ws.deflate.server_no_context_takeover is not takes_over
                for message in messages:
                    await ws.send(message)
                    await ws.send(message, compress=True)
                assert [await ws.receive() for _ in range(8)] == [
                    message for message in messages for _ in range(2)
                ]
            async with triows.open_websocket(url, deflate=None) as ws:
                await ws.send("plain " * 100)
                assert await ws.receive() == "plain " * 100


async def test_what_a_compiled_handler_delivers_to_no_one_ends_its_connection(warm, caplog):
    """As where nothing is compressed: 1011, and no other connection is hurt."""
    handler = triows.compiled(lambda _payload, _opcode: 3)
    with trio.fail_after(20):
        async with triows.open_reactor(
            handler, threads=0, deflate=triows.Deflate(), shutdown_grace=0.1
        ) as reactor:
            await reactor.listen(0)
            async with triows.open_websocket(f"ws://127.0.0.1:{reactor.port}") as ws:
                await ws.send("text " * 100)
                with pytest.raises(triows.ConnectionBroken, match="1011"):
                    await ws.receive()

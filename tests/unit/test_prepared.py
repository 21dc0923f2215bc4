"""`PreparedMessage`: made once, sent by whatever sends."""

import pytest
import trio

import triows
from tests.conformance.peer import BINARY, TEXT, Frame
from tests.naive_reception import build_frame
from tests.sessions import Notes, open_session, running
from tests.unit.callback_pairs import starting
from tests.unit.conftest import Connect
from tests.unit.test_turn import masked
from triows import PreparedMessage, Reactor
from triows._engine import ClientEngine, ServerEngine

SIZES = [0, 125, 126, 65_535, 65_536]


@pytest.mark.parametrize(
    ("message", "opcode", "payload"),
    [
        ("grüße", TEXT, "grüße".encode()),
        (b"octets", BINARY, b"octets"),
        (bytearray(b"octets"), BINARY, b"octets"),
        (memoryview(b"o-c-t-e-t-s")[::2], BINARY, b"octets"),
    ],
    ids=["text", "bytes", "bytearray", "strided"],
)
def test_what_it_is_made_of_says_what_it_is(message, opcode, payload):
    """Text is text, octets are binary, and its length is that of the payload."""
    prepared = PreparedMessage(message)

    assert (prepared.opcode, prepared.payload, len(prepared)) == (opcode, payload, len(payload))


@pytest.mark.parametrize("size", SIZES)
def test_its_frame_is_built_once(size):
    """The frame is what a server sends, and the same object each time."""
    prepared = PreparedMessage(b"x" * size)

    assert prepared.frame == build_frame(BINARY, b"x" * size)
    assert prepared.frame is prepared.frame


def test_later_changes_of_what_it_is_made_of_do_not_matter():
    """Octets that can change are copied."""
    octets = bytearray(b"before")
    prepared = PreparedMessage(octets)
    octets[:] = b"after!"

    assert prepared.payload == b"before"


@pytest.mark.parametrize("message", [None, 1, ["text"]])
def test_what_is_no_message_cannot_be_prepared(message):
    """An object of another type is a TypeError that names it."""
    with pytest.raises(TypeError, match=type(message).__name__):
        PreparedMessage(message)


def test_a_lone_surrogate_cannot_be_prepared():
    """Text that has no UTF-8 is refused at once, not when it is sent."""
    with pytest.raises(UnicodeEncodeError):
        PreparedMessage("\ud800")


def test_it_says_what_it_is():
    """Its repr has its kind and its size, and not its text."""
    assert repr(PreparedMessage("secret")) == "<triows.PreparedMessage, text, 6 octets>"
    assert "binary" in repr(PreparedMessage(b""))


@pytest.mark.parametrize("size", SIZES)
def test_a_servers_engine_queues_the_frame_itself(warm, size):
    """What goes to many connections is in memory once."""
    prepared = PreparedMessage(b"x" * size)
    first, second = ServerEngine(), ServerEngine()
    first.send_prepared(prepared)
    second.send_prepared(prepared)

    assert first.outbound.peek()[0] is second.outbound.peek()[0] is prepared.frame


def test_a_clients_engine_masks_it_anew_each_time(warm):
    """Two clients send the same message under different keys (RFC 6455 §5.3)."""
    prepared = PreparedMessage(b"x" * 64)
    first, second = ClientEngine(), ClientEngine()
    first.send_prepared(prepared)
    second.send_prepared(prepared)

    assert first.outbound.head(100) != second.outbound.head(100)


async def test_a_channel_sends_it(connect: Connect):
    """`send` and `send_nowait` take it, and count it as the message that it is."""
    pair = await connect()
    text, octets = PreparedMessage("grüße"), PreparedMessage(b"octets")
    await pair.ws.send(text)
    pair.ws.send_nowait(octets)
    await pair.ws.send(text)

    got = [await pair.peer.receive_frame() for _ in range(3)]

    assert got == [Frame(TEXT, text.payload), Frame(BINARY, b"octets"), Frame(TEXT, text.payload)]
    statistics = pair.ws.statistics()
    assert (statistics.messages_sent, statistics.octets_sent) == (3, 2 * len(text) + len(octets))


async def test_a_channel_that_is_closed_does_not(connect: Connect):
    """It is refused as any other message is."""
    pair = await connect()
    with trio.move_on_after(0):
        await pair.ws.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await pair.ws.send(PreparedMessage("late"))


async def test_a_channel_of_the_reactor_sends_it(warm, nursery):
    """Over the reactor too, before and after the connection has come to the loop."""
    prepared = PreparedMessage("grüße")

    async def greet(ws):
        for _ in range(3):
            await ws.send(prepared)

    async def take(url):
        async with triows.open_websocket(url) as ws:
            return [await ws.receive() for _ in range(3)]

    with trio.fail_after(5):
        server = await nursery.start(
            lambda task_status: triows.serve(greet, 0, driver="reactor", task_status=task_status)
        )
        assert await take(f"ws://127.0.0.1:{server.port}") == ["grüße"] * 3
        nursery.cancel_scope.cancel()


def test_a_callbacks_connection_sends_it(warm):
    """`Connection.send` takes it; an opcode that is given goes before its own."""

    def answer(conn, _payload, _opcode):
        conn.send(PreparedMessage("text"))
        conn.send(PreparedMessage(b"octets"))
        conn.send(PreparedMessage("text"), BINARY)

    with starting() as start:
        pair = start(frame=answer)
        reply = pair.talk(pair.connect(), masked(TEXT, b"go"))

    assert reply == b"".join(
        build_frame(opcode, payload)
        for opcode, payload in ((TEXT, b"text"), (BINARY, b"octets"), (BINARY, b"text"))
    )


@pytest.mark.usefixtures("warm_sessions")
async def test_a_sender_sends_it():
    """Each way of a `Sender` takes it."""
    async with running(Reactor(Notes())) as reactor:
        ours, peer = open_session()
        session = reactor.add_session(ours)
        prepared = PreparedMessage("text")
        with reactor.sender() as sender:
            await sender.send(session, prepared)
            sender.send_nowait(session, prepared)
            await trio.to_thread.run_sync(sender.send_from_thread, session, prepared)
            assert [await peer.receive_frame() for _ in range(3)] == [Frame(TEXT, b"text")] * 3

"""Messages in parts, out and in; batches; and blocks that end with the connection."""

from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.conformance.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame
from tests.unit.conftest import Connect, Pair, as_server, over_memory, over_virtual
from triows import CloseReason, ConnectionBroken, Limits


async def settle() -> None:
    """Wait until every task waits, a kernel's round trip included."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def frames(pair: Pair, count: int) -> list[Frame]:
    """The next frames that the channel sends."""
    return [await pair.peer.receive_frame() for _ in range(count)]


# Sending.


@pytest.mark.parametrize(
    ("text", "parts", "opcode", "payloads"),
    [
        (True, ["grü", "ße"], TEXT, ["grü".encode(), "ße".encode()]),
        (False, [b"one", bytearray(b"two")], BINARY, [b"one", b"two"]),
        (True, [], TEXT, []),
        (False, [b"", b"one", b""], BINARY, [b"one"]),
    ],
    ids=["text", "binary", "empty", "empty parts"],
)
async def test_a_message_goes_out_in_parts(
    connect: Connect, text: Any, parts: list[Any], opcode: int, payloads: list[bytes]
):
    """Each part is a frame at once, and the end of the block is the last one (RFC 6455 §5.4)."""
    pair = await connect()
    expected = [
        Frame(CONTINUATION if number else opcode, payload, fin=False)
        for number, payload in enumerate(payloads)
    ]
    async with pair.ws.open_message(text=text) as message:
        for part in parts:
            await message.send(part)
        assert await frames(pair, len(payloads)) == expected
    assert await frames(pair, 1) == [Frame(CONTINUATION if payloads else opcode, b"")]
    assert pair.ws.statistics().messages_sent == 1
    assert pair.ws.statistics().octets_sent == len(b"".join(payloads))
    await pair.ws.send("next")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"next")


async def test_other_messages_wait_for_the_last_part(connect: Connect, nursery: trio.Nursery):
    """What other tasks send meanwhile comes behind the message, in the order of asking."""
    pair = await connect()
    async with pair.ws.open_message(text=True) as message:
        await message.send("one")
        for text in ("b", "c"):
            nursery.start_soon(pair.ws.send, text)
            await settle()
        with pytest.raises(trio.WouldBlock):
            pair.ws.send_nowait("d")
        assert pair.ws.statistics().tasks_waiting_to_send == 2
        await message.send("two")
    payloads = [frame.payload for frame in await frames(pair, 5)]
    assert payloads == [b"one", b"two", b"", b"b", b"c"]


async def test_a_ping_passes_between_parts(connect: Connect, nursery: trio.Nursery):
    """A control frame may come between the frames of a message, and does (RFC 6455 §5.4)."""
    pair = await connect()
    async with pair.ws.open_message(text=False) as message:
        await message.send(b"one")
        nursery.start_soon(pair.ws.send, "waits")
        await settle()
        nursery.start_soon(pair.ws.ping, b"ping")
        await settle()
        await message.send(b"two")
    kinds = [(frame.opcode, frame.payload) for frame in await frames(pair, 5)]
    assert kinds[:2] == [(BINARY, b"one"), (PING, b"ping")]
    assert kinds[2:] == [(CONTINUATION, b"two"), (CONTINUATION, b""), (TEXT, b"waits")]
    await pair.peer.send_frame(PONG, b"ping")


@over_virtual
async def test_parts_wait_for_room(connect: Connect):
    """A message in parts can be larger than any queue: the mark and a part are held."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=4096)
    sent = 0

    async def send() -> None:
        nonlocal sent
        async with pair.ws.open_message(text=False) as message:
            for _ in range(100):
                await message.send(bytes(1000))
                sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await settle()
        assert sent < 100
        assert pair.ws.statistics().unsent_octets < 70_000
        assert b"".join(frame.payload for frame in await frames(pair, 101)) == bytes(100_000)


@pytest.mark.parametrize("how", ["raised", "cancelled"])
async def test_a_message_that_cannot_be_finished_closes_with_1011(connect: Connect, how: str):
    """Once a part is out, an exception ends the connection: the peer never gets the message."""
    pair = await connect()

    async def fail() -> None:
        async with pair.ws.open_message(text=True) as message:
            await message.send("one")
            if how == "raised":
                raise KeyError("why")
            await trio.sleep_forever()

    if how == "raised":
        with pytest.raises(KeyError):
            await fail()
    else:
        with trio.move_on_after(0.02) as scope:
            await fail()
        assert scope.cancelled_caught
    assert await pair.peer.receive_frame() == Frame(TEXT, b"one", fin=False)
    close = await pair.peer.receive_frame()
    assert (close.opcode, close.payload[:2]) == (CLOSE, (1011).to_bytes(2))
    with pytest.raises(trio.ClosedResourceError):
        await pair.ws.send("behind")
    await pair.peer.send(pair.text(b"still heard"))
    assert await pair.ws.receive() == "still heard"
    assert pair.ws.statistics().messages_sent == 0


async def test_a_message_that_never_began_does_no_harm(connect: Connect):
    """An exception before the first part leaves the connection as it was."""
    pair = await connect()

    async def fail() -> None:
        async with pair.ws.open_message(text=True) as message:
            await message.send("")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await pair.ws.send("next")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"next")


@over_virtual
async def test_a_cancelled_part_lets_the_message_go_on(connect: Connect):
    """A part that was cancelled was not sent; the block may send another."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=4096)
    async with trio.open_nursery() as nursery, pair.ws.open_message(text=False) as message:
        await message.send(bytes(200_000))
        with trio.move_on_after(1) as scope:
            await message.send(b"never")
        assert scope.cancelled_caught
        nursery.start_soon(frames, pair, 1)
        await message.send(b"last")
    assert [frame.payload for frame in await frames(pair, 2)] == [b"last", b""]


@pytest.mark.parametrize(
    ("text", "part"), [(True, b"octets"), (False, "text"), (True, None), (False, 1)]
)
async def test_a_part_of_another_kind_is_refused(connect: Connect, text: Any, part: Any):
    """Text is made of text, octets of octets; nothing is sent of anything else."""
    pair = await connect()
    async with pair.ws.open_message(text=text) as message:
        with pytest.raises(TypeError, match=type(part).__name__):
            await message.send(part)
    assert await pair.peer.receive_frame() == Frame(TEXT if text else BINARY, b"")


async def test_a_part_that_is_no_text_is_refused(connect: Connect):
    """A lone surrogate in a part is an error of its sender, who can go on."""
    pair = await connect()
    async with pair.ws.open_message(text=True) as message:
        with pytest.raises(UnicodeEncodeError):
            await message.send("\ud800")
        await message.send("fine")
    assert (await frames(pair, 2))[0] == Frame(TEXT, b"fine", fin=False)


@over_virtual
async def test_one_task_sends_the_parts_of_a_message(connect: Connect):
    """Two tasks that send parts at once would mix them up: the second is told."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=4096)
    async with pair.ws.open_message(text=False) as message:
        await message.send(bytes(200_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(message.send, b"waits")
            await settle()
            with pytest.raises(trio.BusyResourceError):
                await message.send(b"at once")
            await frames(pair, 1)
    assert [frame.payload for frame in await frames(pair, 2)] == [b"waits", b""]


async def test_a_task_cannot_send_within_its_own_message(connect: Connect):
    """It would wait for itself: `send` and `open_message` say so instead."""
    pair = await connect()
    async with pair.ws.open_message(text=True) as message:
        with pytest.raises(RuntimeError, match="open"):
            await pair.ws.send("x")
        with pytest.raises(RuntimeError, match="open"):
            await pair.ws.open_message(text=True).__aenter__()
        await message.send("fine")
    assert [frame.payload for frame in await frames(pair, 2)] == [b"fine", b""]


async def test_a_message_cannot_be_sent_once_its_block_was_left(connect: Connect):
    """Its parts would be those of nothing."""
    pair = await connect()
    async with pair.ws.open_message(text=True) as message:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await message.send("late")


@over_virtual
async def test_an_end_of_the_connection_lets_go_of_all_who_wait_for_a_message(connect: Connect):
    """Those who stand behind a message in parts are told of the end before it is finished."""
    pair = await connect()
    outcomes: list[int] = []

    async def send() -> None:
        try:
            await pair.ws.send("waits")
        except ConnectionBroken as error:
            outcomes.append(error.code)

    async def hold_the_floor() -> None:
        async with pair.ws.open_message(text=True) as message:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(send)
                await settle()
                await pair.close(4000)
            assert outcomes == [4000] * 3
            with pytest.raises(ConnectionBroken):
                await message.send("more")

    with pytest.raises(ConnectionBroken):
        await hold_the_floor()
    with pytest.raises(ConnectionBroken):
        await pair.ws.send("more")


@over_virtual
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_cancelled_wait_for_the_floor_passes_it_on(connect: Connect, place: int):
    """Of three who wait behind a message, one gives up; the others' messages come in order."""
    pair = await connect()
    scopes = [trio.CancelScope() for _ in range(3)]

    async def send(number: int) -> None:
        with scopes[number]:
            async with pair.ws.open_message(text=False) as message:
                await message.send(b"%d" % number)

    async with trio.open_nursery() as nursery, pair.ws.open_message(text=False):
        for number in range(3):
            nursery.start_soon(send, number)
            await settle()
        scopes[place].cancel()
        await settle()
    left = [b"%d" % number for number in range(3) if number != place]
    payloads = [frame.payload for frame in await frames(pair, 5)]
    assert payloads == [b"", left[0], b"", left[1], b""]


async def test_closing_within_a_message_shows(connect: Connect):
    """Who closes before the message is whole is told that it was not sent."""
    pair = await connect()

    async def send() -> None:
        async with pair.ws.open_message(text=True) as message:
            await message.send("one")
            await pair.ws.aclose(1001)

    async def expect_the_error() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await send()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_the_error)
        assert await pair.peer.receive_frame() == Frame(TEXT, b"one", fin=False)
        assert (await pair.answer_close()).payload == (1001).to_bytes(2)


# Receiving.


async def take(pair: Pair, parts: list[Any]) -> None:
    """Receive the next message in parts."""
    async with pair.ws.receive_parts() as message:
        async for part in message:
            parts.append(part)  # noqa: PERF401 - each as it comes: tests look on


@pytest.mark.parametrize("kind", [TEXT, BINARY])
async def test_a_message_comes_in_parts_as_they_arrive(connect: Connect, kind: int):
    """Parts are handed out before the message is whole; text never ends within a character."""
    pair = await connect()
    octets = "grüße 🎈".encode()
    parts: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, pair, parts)
        await settle()
        for number in range(len(octets)):
            await pair.peer.send(
                pair.frame(kind if not number else CONTINUATION, octets[number:][:1], fin=False)
            )
            await settle()
            whole = octets[: number + 1].decode(errors="ignore")
            assert (b"" if kind == BINARY else "").join(parts) == (
                octets[: number + 1] if kind == BINARY else whole
            )
        await pair.peer.send(pair.frame(CONTINUATION))
    assert all(parts)
    await pair.peer.send(pair.text(b"next"))
    assert await pair.ws.receive() == "next"
    assert pair.ws.statistics().messages_received == 2
    assert pair.ws.statistics().octets_received == len(octets) + 4


async def test_what_came_before_it_was_asked_for_comes_first(connect: Connect):
    """Half a message that is there already is the first part; the rest follows."""
    pair = await connect()
    await pair.peer.send(pair.frame(BINARY, b"half", fin=False))
    await settle()
    async with pair.ws.receive_parts() as message:
        assert not message.is_text
        assert await message.receive() == b"half"
        await pair.peer.send(pair.frame(CONTINUATION, b"other"))
        assert await message.receive() == b"other"
        assert message.is_whole
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await message.receive()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_whole_message_is_one_part(connect: Connect, when: str):
    """A message in one frame, there already or still to come, is handed out as it is."""
    pair = await connect()
    parts: list[Any] = []
    octets = pair.text("grüße".encode()) + pair.frame(BINARY, b"x", fin=False) + pair.frame(0, b"y")
    async with trio.open_nursery() as nursery:
        if when == "before":
            await pair.peer.send(octets)
            await settle()
        nursery.start_soon(take, pair, parts)
        await settle()
        if when == "after":
            await pair.peer.send(octets)
    assert parts == ["grüße"]
    assert await pair.ws.receive() == b"xy"


async def test_an_empty_message_has_no_part(connect: Connect):
    """Its block is entered, and its loop ends at once."""
    pair = await connect()
    await pair.peer.send(pair.text(b"") + pair.frame(TEXT, fin=False) + pair.frame(0))
    parts: list[Any] = []
    await take(pair, parts)
    await take(pair, parts)
    assert parts == []


@over_virtual
async def test_parts_are_bounded(connect: Connect):
    """A message far over the queue's bounds comes through them, and the peer is held back."""
    limits = Limits(max_message=2**30, receive_queue_octets=100_000)
    pair = await connect(limits=limits, capacity=4096)
    size, taken, most = 5_000_000, 0, 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.send, pair.frame(BINARY, bytes(size)))
        async with pair.ws.receive_parts() as message:
            await settle()
            assert pair.ws.statistics().unread_octets < 200_000
            async for part in message:
                taken += len(part)
                most = max(most, pair.ws.statistics().unread_octets)
    assert taken == size
    assert most < 200_000


@pytest.mark.parametrize("when", ["part", "none"])
async def test_the_rest_of_a_message_that_is_left_is_thrown_away(connect: Connect, when: str):
    """Leaving the block early does not wait, and the next message is whole."""
    pair = await connect()
    await pair.peer.send(pair.text(b"first") if when == "none" else b"")
    await pair.peer.send(pair.frame(BINARY, b"one", fin=False))
    if when == "none":
        assert await pair.ws.receive() == "first"
    await settle()
    async with pair.ws.receive_parts() as message:
        if when == "part":
            assert await message.receive() == b"one"
        await pair.peer.send(pair.frame(CONTINUATION, b"two", fin=False))
        await settle()
    with pytest.raises(trio.ClosedResourceError):
        await message.receive()
    await pair.peer.send(pair.frame(CONTINUATION, b"three") + pair.text(b"next"))
    assert await pair.ws.receive() == "next"
    assert pair.ws.statistics().unread_octets == 0


async def test_what_is_unread_of_a_whole_message_is_thrown_away_alone(connect: Connect):
    """Leaving a message that had come whole leaves the one behind it."""
    pair = await connect()
    await pair.peer.send(pair.text(b"one", b"two"))
    async with pair.ws.receive_parts():
        await settle()
    assert await pair.ws.receive() == "two"


async def test_no_one_else_receives_meanwhile(connect: Connect):
    """The rest of a message belongs to whoever began it."""
    pair = await connect()
    await pair.peer.send(pair.frame(BINARY, b"one", fin=False))
    async with pair.ws.receive_parts() as message:
        assert await message.receive() == b"one"
        for call in (pair.ws.receive, partial(pair.ws.receive_batch, 1), message.receive):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(message.receive)
                await settle()
                with pytest.raises(trio.BusyResourceError):
                    await call()
                nursery.cancel_scope.cancel()
        with pytest.raises(trio.BusyResourceError):
            pair.ws.receive_nowait()


@pytest.mark.parametrize("code", [1000, 4000])
async def test_an_end_within_a_message_is_never_clean(connect: Connect, code: int):
    """Even a good Close leaves the message broken: it cannot pass for a whole one."""
    pair = await connect()
    await pair.peer.send(pair.frame(TEXT, b"one", fin=False))
    async with pair.ws.receive_parts() as message:
        assert await message.receive() == "one"
        await pair.close(code)
        with pytest.raises(ConnectionBroken) as caught:
            await message.receive()
    assert caught.value.code == code


async def test_closing_here_ends_a_message_that_is_being_received(connect: Connect):
    """A local close is what it is everywhere."""
    pair = await connect()
    await pair.peer.send(pair.frame(TEXT, b"one", fin=False))
    async with pair.ws.receive_parts() as message, trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.aclose)
        await pair.answer_close()
        with pytest.raises(trio.ClosedResourceError):
            await message.receive()


@pytest.mark.parametrize("how", ["clean", "broken"])
async def test_receive_parts_at_the_end_says_how_it_ended(connect: Connect, how: str):
    """As `receive` does, whether it waits for the end or comes after it."""
    pair = await connect()
    expected: Any = trio.EndOfChannel if how == "clean" else ConnectionBroken
    errors: list[BaseException] = []

    async def wait() -> None:
        try:
            await take(pair, [])
        except (trio.EndOfChannel, ConnectionBroken) as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await settle()
        await pair.close(1000 if how == "clean" else 4000)
    await wait()
    assert [type(error) for error in errors] == [expected, expected]


async def test_a_cancelled_wait_for_parts_loses_nothing(connect: Connect):
    """The message that comes afterwards is received whole, by whoever comes next."""
    pair = await connect()
    with trio.move_on_after(0.02) as scope:
        await take(pair, [])
    assert scope.cancelled_caught
    await pair.peer.send(pair.frame(BINARY, b"one", fin=False) + pair.frame(0, b"two"))
    assert await pair.ws.receive() == b"onetwo"


async def test_a_cancelled_part_is_still_there(connect: Connect):
    """Receiving a part may be cancelled any number of times."""
    pair = await connect()
    await pair.peer.send(pair.frame(TEXT, b"one", fin=False))
    async with pair.ws.receive_parts() as message:
        for _ in range(2):
            with trio.CancelScope() as scope:
                scope.cancel()
                await message.receive()
            assert scope.cancelled_caught
        assert await message.receive() == "one"
        with trio.move_on_after(0.02):
            await message.receive()
        await pair.peer.send(pair.frame(0, b"two"))
        assert [part async for part in message] == ["two"]


@over_memory
async def test_bad_text_in_parts_is_refused_as_ever(connect: Connect):
    """UTF-8 is validated as it arrives, before the message is whole (1007)."""
    pair = await connect()
    await pair.peer.send(pair.frame(TEXT, b"one", fin=False))
    async with pair.ws.receive_parts() as message:
        assert await message.receive() == "one"
        await pair.peer.send(pair.frame(0, b"\xff", fin=False))
        with pytest.raises(ConnectionBroken) as caught:
            await message.receive()
    assert caught.value.code == 1007


# Batches.


async def test_a_batch_is_what_is_there(connect: Connect):
    """Up to so many messages, in order, without waiting for more than the first."""
    pair = await connect()
    await pair.peer.send(pair.text(*(b"%d" % number for number in range(10))))
    await settle()
    assert await pair.ws.receive_batch(4) == ["0", "1", "2", "3"]
    assert await pair.ws.receive_batch(100) == ["4", "5", "6", "7", "8", "9"]
    async with trio.open_nursery() as nursery:
        batches: list[Any] = []

        async def receive() -> None:
            batches.append(await pair.ws.receive_batch(max=3))

        nursery.start_soon(receive)
        await settle()
        await pair.peer.send(pair.text(b"last"))
    assert batches == [["last"]]


async def test_a_batch_ends_before_the_end(connect: Connect):
    """What came before the peer's Close is a batch; the end comes with the next call."""
    pair = await connect()
    await pair.peer.send(pair.text(b"one", b"two"))
    await pair.close(1000)
    await settle()
    assert await pair.ws.receive_batch(5) == ["one", "two"]
    with pytest.raises(trio.EndOfChannel):
        await pair.ws.receive_batch(5)


@pytest.mark.parametrize("size", [0, -1])
async def test_a_batch_of_nothing_is_refused(connect: Connect, size: int):
    """It could never return."""
    pair = await connect()
    with pytest.raises(ValueError, match=str(size)):
        await pair.ws.receive_batch(size)


async def test_a_cancelled_batch_loses_nothing(connect: Connect):
    """Whether it waited or not."""
    pair = await connect()
    with trio.move_on_after(0.02) as scope:
        await pair.ws.receive_batch(5)
    assert scope.cancelled_caught
    await pair.peer.send(pair.text(b"one", b"two"))
    await settle()
    with trio.CancelScope() as scope:
        scope.cancel()
        await pair.ws.receive_batch(5)
    assert await pair.ws.receive_batch(5) == ["one", "two"]


# Blocks that end with the connection.


@pytest.mark.parametrize("how", ["close", "fault", "end", "abort"])
async def test_a_block_is_cancelled_when_the_connection_ends(connect: Connect, how: str):
    """The peer's Close, its fault, the transport's end: the block is left without an exception."""
    pair = await connect()

    async def end() -> None:
        await settle()
        if how == "close":
            await pair.close(1000)
        elif how == "fault":
            await pair.peer.send(pair.frame(3))
        elif how == "end":
            await pair.peer.aclose()
        else:
            pair.ws.abort("enough")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with trio.fail_after(30):
            async with pair.ws.cancel_on_close() as scope, pair.ws.cancel_on_close() as inner:
                await trio.sleep_forever()
    assert scope.cancelled_caught != inner.cancelled_caught


async def test_a_block_that_ends_first_is_not_cancelled(connect: Connect):
    """Nothing is left of it once it is over."""
    pair = await connect()
    async with pair.ws.cancel_on_close() as scope:
        await pair.ws.send("x")
    await pair.close(1000)
    assert not scope.cancel_called
    assert not pair.ws._scopes


@pytest.mark.parametrize("when", ["peer's close", "over"])
async def test_a_block_after_the_end_does_not_wait(connect: Connect, when: str):
    """Where the connection has ended already, the first checkpoint ends the block."""
    pair = await connect()
    await pair.close(1000)
    if when == "over":
        await pair.ws.aclose()
    else:
        await settle()
    async with pair.ws.cancel_on_close() as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_closing_within_the_block_is_not_cancelled(connect: Connect):
    """A local close goes through its handshake; then there is nothing left to cancel."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.answer_close)
        async with pair.ws.cancel_on_close() as scope:
            await pair.ws.aclose(4000)
            assert pair.ws.close_reason == CloseReason(4000)
    assert not scope.cancelled_caught


async def test_a_local_close_cancels_other_blocks(connect: Connect):
    """Once it is done, tasks that live for the connection go."""
    pair = await connect()

    async def wait() -> None:
        async with pair.ws.cancel_on_close():
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await settle()
        nursery.start_soon(pair.answer_close)
        await pair.ws.aclose()


@as_server
@over_memory
async def test_an_exception_of_the_block_comes_out(connect: Connect):
    """The block hides nothing but its own cancellation."""
    pair = await connect()
    with pytest.raises(KeyError):
        async with pair.ws.cancel_on_close():
            raise KeyError

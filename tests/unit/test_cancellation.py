"""Cancellation at every checkpoint: what it may stop, what it must not, and what it leaves.

A `send` that raised ``Cancelled`` sent nothing, one that returned sent all: held by
a peer that shares no code with the channel. Random choices come from a seed, which
is printed; set TRIOWS_SEED to repeat a run.
"""

import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.conformance.peer import CLOSE, PING, PONG, TEXT, build_frame
from tests.unit.conftest import (
    CancelAt,
    Connect,
    Pair,
    Way,
    as_server,
    over_memory,
    over_tcp,
    over_virtual,
)
from triows import Limits

SIZES = [0, 1, 125, 126, 65_535, 65_536, 2**20]
WHEN = ["waiting", "woken"]


@pytest.fixture
def chance() -> random.Random:
    """A source of choices that can be repeated."""
    seed = int(os.environ.get("TRIOWS_SEED", random.randrange(2**32)))
    print(f"TRIOWS_SEED={seed}")  # noqa: T201 - pytest shows it where a test fails
    return random.Random(seed)


async def read_all(pair: Pair, arrived: list[bytes], pause: float = 0.0) -> None:
    """Take messages until the channel closes, resting *pause* seconds after each."""
    while (frame := await pair.peer.receive_frame()).opcode != CLOSE:
        if frame.opcode == PING:
            await pair.peer.send_frame(PONG, frame.payload)
        else:
            arrived.append(frame.payload)
        await trio.sleep(pause)
    await pair.peer.send(pair.frame(CLOSE, frame.payload))
    if pair.role == "client":
        await pair.peer.aclose()


def payloads(chance: random.Random, size: int) -> Iterator[bytes]:
    """Messages of *size* octets, as different from each other as that allows."""
    while True:
        yield chance.randbytes(size)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("size", [*SIZES, 2**23])
async def test_a_send_is_sent_whole_or_not_at_all(
    connect: Connect, chance: random.Random, size: int, when: str
):
    """Cancelled at its n-th checkpoint, for each n: an exception means no, a return means yes."""
    pair = await connect(limits=Limits(send_queue_octets=1000))
    sent, arrived = [], []
    source = payloads(chance, size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, pair, arrived)
        for number in range(100):
            message = next(source)
            attempt = CancelAt(number, when)
            await attempt.run(pair.ws.send(message))
            if not attempt.was_cancelled:
                sent.append(message)
            if attempt.steps < number:
                break
        else:
            pytest.fail("the send went through a hundred checkpoints")
        await pair.ws.aclose()
    assert arrived == sent


@over_virtual
@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rivals", [0, 2])
async def test_a_send_that_has_to_wait_is_sent_whole_or_not_at_all(
    connect: Connect, chance: random.Random, size: int, when: str, rivals: int
):
    """The same for a queue that is full, with other senders in line before and behind."""
    most = 0
    for number in range(100):
        pair = await connect(limits=Limits(send_queue_octets=1000), capacity=4096)
        arrived: list[bytes] = []
        attempt = CancelAt(number, when)
        message = chance.randbytes(size)
        fill = b"f" * 20_000
        expected = [fill] + [b"rival"] * rivals + [message] + [b"behind"] * rivals
        await pair.ws.send(fill)
        async with trio.open_nursery() as nursery:
            for _ in range(rivals):
                nursery.start_soon(pair.ws.send, b"rival")
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(attempt.run, pair.ws.send(message))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(rivals):
                nursery.start_soon(pair.ws.send, b"behind")
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read_all, pair, arrived)
            await trio.sleep(5)
            await pair.ws.aclose()
        if attempt.was_cancelled:
            expected.remove(message)
        assert arrived == expected
        assert pair.ws.statistics().tasks_waiting_to_send == 0
        most = max(most, attempt.steps)
        if attempt.steps < number:
            break
    assert most >= 2


async def test_500_cancelled_sends_leave_the_stream_whole(
    connect: Connect, way: Way, chance: random.Random
):
    """Of 500 sends of any size to a slow reader, cancelled at random, the stream stays whole."""
    pair = await connect(limits=Limits(send_queue_octets=5000))
    sent, arrived = [], []
    cancelled = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, pair, arrived, 0.001)
        for _ in range(500):
            message = chance.randbytes(chance.choice([0, 1, 125, 126, 70_000, 30_000]))
            with trio.move_on_after(chance.choice([0, 0, 0.0002, 0.001])) as scope:
                await pair.ws.send(message)
                sent.append(message)
            cancelled += scope.cancelled_caught
        await pair.ws.aclose()
    assert arrived == sent
    assert 20 <= cancelled < 500
    assert len(sent) + cancelled == 500


@over_virtual
async def test_senders_cancelled_in_a_crowd_leave_the_stream_whole(
    connect: Connect, chance: random.Random
):
    """Twenty tasks send at once and are cancelled at random moments, each on its own."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=4096)
    sent: list[bytes] = []
    arrived: list[bytes] = []

    async def send(number: int) -> None:
        for turn in range(20):
            message = bytes([number, turn]) * chance.choice([1, 500, 5000])
            with trio.move_on_after(chance.random() * 0.1) as scope:
                await pair.ws.send(message)
            if not scope.cancelled_caught:
                sent.append(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, pair, arrived, 0.01)
        async with trio.open_nursery() as senders:
            for number in range(20):
                senders.start_soon(send, number)
        await pair.ws.aclose()
    assert sorted(arrived) == sorted(sent)
    assert 0 < len(sent) < 400


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("order", ["message first", "receiver first"])
async def test_a_cancelled_receive_loses_no_message(connect: Connect, when: str, order: str):
    """Cancelled at its n-th checkpoint, for each n, a receive takes one message or none."""
    pair = await connect()
    received: list[Any] = []
    expected: list[str] = []
    for number in range(10):
        text = f"message {number}"
        expected.append(text)
        attempt = CancelAt(number, when)

        async def receive(attempt: CancelAt = attempt) -> None:
            message = await attempt.run(pair.ws.receive())
            if not attempt.was_cancelled:
                received.append(message)

        async with trio.open_nursery() as nursery:
            if order == "receiver first":
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
            await pair.peer.send(pair.text(text.encode()))
            await trio.testing.wait_all_tasks_blocked(0.01)
            if order == "message first":
                nursery.start_soon(receive)
        while pair.ws.statistics().unread_messages:
            received.append(await pair.ws.receive())
        if attempt.steps < number:
            break
    assert received == expected


async def test_receives_cancelled_at_random_lose_no_message(
    connect: Connect, chance: random.Random
):
    """A reader that gives up and tries again all the time gets every message once, in order."""
    pair = await connect()
    received: list[Any] = []

    async def send() -> None:
        for number in range(300):
            await pair.peer.send(pair.text(b"%d" % number))
            await trio.sleep(chance.random() * 0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while len(received) < 300:
            with trio.move_on_after(chance.random() * 0.001):
                received.append(await pair.ws.receive())
    assert received == [str(number) for number in range(300)]


@pytest.mark.parametrize("when", WHEN)
async def test_a_cancelled_ping_leaves_the_connection_usable(connect: Connect, when: str):
    """Whether or not the Ping went out, messages and further Pings go through."""
    pair = await connect()
    arrived: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, pair, arrived)
        for number in range(5):
            await CancelAt(number, when).run(pair.ws.ping(b"same"))
        await pair.ws.ping(b"same")
        assert not pair.ws._pings
        await pair.ws.send("after")
        await pair.ws.aclose()
    assert arrived == [b"after"]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("number", range(4))
async def test_a_cancelled_aclose_has_closed(connect: Connect, when: str, number: int):
    """Cancelled at its n-th checkpoint, `aclose` leaves nothing open: the peer sees the end."""
    pair = await connect(limits=Limits(close_timeout=100))
    attempt = CancelAt(number, when)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt.run, pair.ws.aclose())
        if number > 1 or (number == 1 and when == "woken"):
            await pair.answer_close()
        else:
            await pair.peer.receive_end()
    with trio.fail_after(2):
        await pair.ws.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await pair.ws.receive()


@over_virtual
async def test_a_cancelled_aclose_drops_what_is_unsent(connect: Connect):
    """A transport that is dropped takes nothing more, not even a Close."""
    pair = await connect(capacity=1024)
    pair.ws.send_nowait(bytes(50_000))
    with trio.move_on_after(1):
        await pair.ws.aclose()
    assert len(await pair.peer.receive_end()) <= 1024 + 65_536
    assert pair.ws.statistics().unsent_octets == 0


@as_server
@over_tcp
@pytest.mark.parametrize("call", ["send", "receive", "ping", "aclose"])
async def test_cancelled_calls_leak_no_descriptor_and_no_task(connect: Connect, call: str):
    """A hundred connections with a cancelled call each leave nothing open once they are over."""

    async def use_one() -> None:
        pair = await connect(limits=Limits(send_queue_octets=1000))
        calls = {
            "send": partial(_send_for_ever, pair),
            "receive": pair.ws.receive,
            "ping": pair.ws.ping,
            "aclose": pair.ws.aclose,
        }
        with trio.move_on_after(0.001):
            await calls[call]()
        pair.ws.abort("over")
        await pair.ws.aclose()
        await pair.peer.aclose()

    await use_one()
    tasks, descriptors = count_tasks(), count_descriptors()
    for _ in range(100):
        await use_one()
    await trio.testing.wait_all_tasks_blocked()
    assert count_descriptors() <= descriptors
    assert count_tasks() <= tasks


async def _send_for_ever(pair: Pair) -> None:
    while True:
        await pair.ws.send(bytes(100_000))


def count_descriptors() -> int:
    """The descriptors that this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


def count_tasks() -> int:
    """The tasks of this run."""
    return trio.lowlevel.current_statistics().tasks_living


@as_server
@over_memory
async def test_the_harness_catches_a_send_that_is_torn(connect: Connect):
    """A channel that awaited its transport in `send` itself would not pass these tests."""
    pair = await connect(capacity=4096)
    stream = pair.ws._driver._stream
    attempt = CancelAt(2)
    await attempt.run(stream.send_all(build_frame(TEXT, b"x" * 10_000, mask=None)))
    assert attempt.was_cancelled
    await pair.ws.send("next")
    with pytest.raises(trio.TooSlowError):
        await pair.peer.receive_frame()

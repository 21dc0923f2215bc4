"""The fan-out bench's load generator: it must see what a relay gets wrong."""

import contextlib
from collections.abc import Callable, Iterator

import numba
import pytest
from fanout_load import Room, Shape
from load import LoadError, WrongOctetError
from websockets.sync.server import ServerConnection

from tests.unit.threaded_server import serving_in_a_thread

pytestmark = pytest.mark.skipif(
    numba.config.DISABLE_JIT, reason="the generator calls libc, which only compiled code can"
)

SHAPE = Shape(clients=3, octets=300, window=4)


@contextlib.contextmanager
def relaying(change: Callable[[int, bytes], bytes]) -> Iterator[int]:
    """Serve a relay that sends what *change* makes of its nth message; gives the port."""
    room: list[ServerConnection] = []
    count = 0

    def converse(connection: ServerConnection) -> None:
        nonlocal count
        room.append(connection)
        for message in connection:
            count += 1
            changed = change(count, message)
            for one in room:
                with contextlib.suppress(Exception):
                    one.send(changed)

    with serving_in_a_thread(converse) as port:
        yield port


def test_every_delivery_of_a_true_relay_is_counted() -> None:
    """Each message counts for each client, and is timed."""
    with relaying(lambda _, message: message) as port, Room("127.0.0.1", port, SHAPE) as room:
        tally = room.run(0.05)

    assert tally.deliveries > 0
    assert tally.deliveries % SHAPE.clients == 0
    assert len(tally.latencies) == tally.deliveries
    assert 0 < tally.latency(50) <= tally.latency(99)


def test_a_planted_wrong_octet_is_found() -> None:
    """One flipped bit in one delivery ends the run."""

    def change(number: int, message: bytes) -> bytes:
        return message if number != 7 else message[:-1] + bytes([message[-1] ^ 0x10])

    with (
        relaying(change) as port,
        Room("127.0.0.1", port, SHAPE) as room,
        pytest.raises(WrongOctetError, match="octet"),
    ):
        room.run(0.2)


def test_a_message_that_comes_twice_is_found() -> None:
    """What was sent before is not what is due."""
    last = b""

    def change(number: int, message: bytes) -> bytes:
        nonlocal last
        stale, last = last, message
        return stale if number == 5 else message

    with (
        relaying(change) as port,
        Room("127.0.0.1", port, SHAPE) as room,
        pytest.raises(WrongOctetError),
    ):
        room.run(0.2)


def test_a_relay_that_closes_is_found() -> None:
    """A client that the relay has closed ends the run."""

    def change(number: int, message: bytes) -> bytes:
        if number == 5:
            raise ConnectionError
        return message

    with (
        relaying(change) as port,
        Room("127.0.0.1", port, SHAPE) as room,
        pytest.raises(LoadError),
    ):
        room.run(0.2)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("500/64x4", Shape(clients=500, octets=64, window=4)),
        ("1000/64x4-10", Shape(clients=1_000, octets=64, window=4, stalled=10)),
    ],
)
def test_a_shape_is_read_and_written(text: str, shape: Shape) -> None:
    """As in the bench's options and results."""
    assert Shape.parse(text) == shape
    assert str(shape) == text

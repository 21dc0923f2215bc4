"""The fan-out bench's load generator: it must see what a relay gets wrong."""

import contextlib
from collections.abc import Callable, Iterator

import numba
import pytest
from fanout_load import Rooms, Shape
from load import LoadError, WrongOctetError
from websockets.sync.server import ServerConnection

from tests.unit.threaded_server import serving_in_a_thread

pytestmark = pytest.mark.skipif(
    numba.config.DISABLE_JIT, reason="the generator calls libc, which only compiled code can"
)

SHAPE = Shape(clients=3, octets=300, window=4)


def path_of(connection: ServerConnection) -> str:
    """The room that a client has asked for."""
    assert connection.request is not None
    return connection.request.path


@contextlib.contextmanager
def relaying(
    change: Callable[[int, bytes], bytes],
    room_of: Callable[[ServerConnection], str] = path_of,
) -> Iterator[int]:
    """Serve a relay that sends what *change* makes of its nth message; gives the port."""
    rooms: dict[str, list[ServerConnection]] = {}
    count = 0

    def converse(connection: ServerConnection) -> None:
        nonlocal count
        room = rooms.setdefault(room_of(connection), [])
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
    with relaying(lambda _, message: message) as port, Rooms("127.0.0.1", port, SHAPE) as room:
        tally = room.run(0.05)

    assert tally.deliveries > 0
    assert tally.deliveries % SHAPE.clients == 0
    assert len(tally.latencies) == tally.deliveries
    assert 0 < tally.latency(50) <= tally.latency(99)


def test_each_room_has_messages_of_its_own() -> None:
    """All rooms' deliveries are counted together."""
    shape = Shape(clients=6, octets=300, window=4, rooms=2)
    with relaying(lambda _, message: message) as port, Rooms("127.0.0.1", port, shape) as rooms:
        tally = rooms.run(0.05)

    assert tally.deliveries > 2 * 4 * 3
    assert tally.deliveries % 3 == 0


def test_a_message_that_comes_to_another_room_is_found() -> None:
    """It is one more than its members are due."""
    shape = Shape(clients=4, octets=300, window=4, rooms=2)
    with (
        relaying(lambda _, message: message, room_of=lambda _: "all") as port,
        Rooms("127.0.0.1", port, shape) as rooms,
        pytest.raises(WrongOctetError),
    ):
        rooms.run(0.2)


def test_a_planted_wrong_octet_is_found() -> None:
    """One flipped bit in one delivery ends the run."""

    def change(number: int, message: bytes) -> bytes:
        return message if number != 7 else message[:-1] + bytes([message[-1] ^ 0x10])

    with (
        relaying(change) as port,
        Rooms("127.0.0.1", port, SHAPE) as room,
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
        Rooms("127.0.0.1", port, SHAPE) as room,
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
        Rooms("127.0.0.1", port, SHAPE) as room,
        pytest.raises(LoadError),
    ):
        room.run(0.2)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("500/64x4", Shape(clients=500, octets=64, window=4)),
        ("1000/64x4-10", Shape(clients=1_000, octets=64, window=4, stalled=10)),
        ("10*50/64x4", Shape(clients=500, octets=64, window=4, rooms=10)),
    ],
)
def test_a_shape_is_read_and_written(text: str, shape: Shape) -> None:
    """As in the bench's options and results."""
    assert Shape.parse(text) == shape
    assert str(shape) == text


def test_clients_that_rooms_cannot_share_are_refused() -> None:
    """Each room has as many."""
    with pytest.raises(ValueError, match="7 clients"):
        Shape(clients=7, octets=64, window=4, rooms=2)

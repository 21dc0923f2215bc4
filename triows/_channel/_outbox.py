"""What goes out: who may queue a message, and when.

Whoever wants to send waits first, which can be cancelled, and queues afterwards,
which cannot: the two are never mixed. Who waits stands in line, and there are two
lines. The *turn* is for room, and everyone passes it. The *floor* is for messages:
one that is sent in parts holds it until its last part, for between those nothing but
control frames may be sent (RFC 6455 §5.4); a Ping does not need it.
"""

from typing import TypeAlias

import trio

from triows._channel._ending import Ending
from triows._driver import Driver
from triows._engine import PreparedMessage
from triows._spec import Opcode
from triows._traps import give_way

Payload: TypeAlias = str | bytes | bytearray | memoryview


class Outbox:
    """The way from senders to the driver.

    Args:
        driver: the connection's.
        mark: unsent octets at which senders wait.
        ending: knows whether sending is still possible.
    """

    __slots__ = ("_driver", "_ending", "_line", "_mark", "sent", "sent_octets")

    def __init__(self, driver: Driver, mark: int, ending: Ending) -> None:
        self._driver = driver
        self._mark = mark
        self._ending = ending
        self._line: _Line | None = None  # most connections never need one
        self.sent = self.sent_octets = 0

    # Waiting.

    @property
    def is_full(self) -> bool:
        """Whether there is no room for a message."""
        return self._driver.unsent >= self._mark

    @property
    def must_wait(self) -> bool:
        """Whether a message has to wait, for room or for others who do."""
        line = self._line
        return self.is_full or (line is not None and (line.floor.is_held or line.turn.locked()))

    @property
    def waiting(self) -> int:
        """Tasks that wait to send."""
        line = self._line
        if line is None:
            return 0
        return line.floor.waiting + line.turn.statistics().tasks_waiting + len(line.room)

    async def wait(self) -> None:
        """Wait in line for a message to be the next; it must be queued at once."""
        floor = self._get_line().floor
        await floor.take()
        try:
            await self.wait_for_room()
        finally:
            floor.leave()

    async def wait_for_room(self) -> None:
        """Wait in line for room, or for there to be no use for it; as `wait`."""
        line = self._get_line()
        async with line.turn:
            while self.is_full and self._driver.is_open:
                await line.room.park()

    async def take_floor(self) -> None:
        """Wait as `wait` does, and let no other message be queued until `leave_floor`."""
        floor = self._get_line().floor
        await floor.take()
        try:
            await self.wait_for_room()
            self._ending.check_sendable()
        except BaseException:
            floor.leave()
            raise

    def leave_floor(self) -> None:
        """Let others queue messages again."""
        self._get_line().floor.leave()

    def make_room(self) -> None:
        """Let those who wait look again, if there is room or no use for it."""
        line = self._line
        if line is None:
            return
        if not self._driver.is_open:
            line.floor.open_for_all()
            line.room.unpark_all()
        elif not self.is_full:
            line.room.unpark_all()

    def _get_line(self) -> "_Line":
        if self._line is None:
            self._line = _Line()
        return self._line

    # Queueing, which does not wait.

    def offer(self, opcode: int, payload: bytes | PreparedMessage) -> bool:
        """Queue a whole message where nothing is in the way; returns False where something is.

        What `must_wait` and `queue` do, for the case that is nearly every send's.
        """
        if self._line is not None or type(payload) is not bytes:
            return False
        if not self._driver.offer(opcode, payload, self._mark):
            return False
        self.sent += 1
        self.sent_octets += len(payload)
        return True

    def queue(self, opcode: int, payload: bytes | PreparedMessage) -> None:
        """Queue a whole message; raises what `Ending.check_sendable` does."""
        self._ending.check_sendable()
        self.sent += 1
        self.sent_octets += len(payload)
        if isinstance(payload, PreparedMessage):
            self._driver.send_prepared(payload)
        else:
            self._driver.send(opcode, payload)

    def queue_part(self, opcode: int, payload: bytes, *, is_last: bool, compress: bool) -> None:
        """Queue a part of the message that has the floor; raises likewise."""
        self._ending.check_sendable()
        self.sent += is_last
        self.sent_octets += len(payload)
        self._driver.send_part(opcode, payload, is_last=is_last, compress=compress)


class _Line:
    """Those who wait to send."""

    __slots__ = ("floor", "room", "turn")

    def __init__(self) -> None:
        self.floor = _Floor()
        self.turn = trio.Lock()
        self.room = trio.lowlevel.ParkingLot()


class _Floor:
    """A lock, handed on in order, whose waiters need not outlast a connection's end."""

    __slots__ = ("_holder", "_is_useless", "_lot", "is_held")

    def __init__(self) -> None:
        self._holder: trio.lowlevel.Task | None = None
        self._lot = trio.lowlevel.ParkingLot()
        self._is_useless = False
        self.is_held = False

    @property
    def waiting(self) -> int:
        """Tasks that wait for it."""
        return len(self._lot)

    async def take(self) -> None:
        """Wait to be the one who holds it; `leave` must follow."""
        task = trio.lowlevel.current_task()
        if self._holder is task:
            raise RuntimeError("this task has a message open: its block must be left first")
        if self.is_held and not self._is_useless:
            await self._lot.park()  # it is handed over: `is_held` stays what it is
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
            self.is_held = True
            await give_way()
        self._holder = task

    def leave(self) -> None:
        """Hand it to the next."""
        self._holder = None
        if self._lot:
            self._lot.unpark()
        else:
            self.is_held = False

    def open_for_all(self) -> None:
        """Let everyone in: there is nothing left to be done here."""
        self._is_useless = True
        self._lot.unpark_all()


# Members of an IntEnum are slow to compute with.
TEXT, BINARY = int(Opcode.TEXT), int(Opcode.BINARY)


def encode_message(
    message: Payload | PreparedMessage,
    compress: bool | None,  # noqa: FBT001 - as `WebSocket.send` was given it
) -> tuple[int, bytes | PreparedMessage]:
    """Return the opcode and the octets of a message, prepared if it was or more is to be said.

    Errors as `encode`.
    """
    if compress is None:
        if type(message) is bytes:
            return BINARY, message
        if type(message) is str:
            return TEXT, message.encode()
    if isinstance(message, PreparedMessage):
        return message.opcode, message
    if compress is not None:
        prepared = PreparedMessage(message, compress=compress)
        return prepared.opcode, prepared
    return encode(message)


def encode(message: Payload) -> tuple[int, bytes]:
    """Return the opcode and the octets of a message, or of a part of one.

    Raises:
        TypeError: it is neither text nor octets.
        UnicodeEncodeError: it holds a lone surrogate.
    """
    if isinstance(message, str):
        return TEXT, message.encode()
    if isinstance(message, (bytes, bytearray, memoryview)):
        return BINARY, bytes(message)
    raise TypeError(f"a message is str or bytes, not {type(message).__name__}")

"""The channel: messages in, messages out, the same whatever drives the connection.

What it promises, and how:

- **A cancelled `send` sent nothing; a `send` that returned will send all of it.**
  `send` waits for room first. Then it queues the whole message, which cannot be
  interrupted, and passes a checkpoint that cannot be cancelled.
- **A cancelled `receive` loses nothing.** A receiver that waits is woken without
  being handed anything; it takes its message from the queue when it runs again,
  with no chance of being cancelled in between.
- **Every waiter wakes on closure**: receivers, senders, those who wait for a Pong,
  those who wait for the end.
- **Memory is bounded**: unread messages at which reading stops, unsent octets at
  which sending waits.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, NoReturn, TypeAlias

import attrs
import trio

from triows._engine import (
    Closed,
    Engine,
    Event,
    HTTPResponse,
    Lost,
    Message,
    Phase,
    Ponged,
    Request,
)
from triows._errors import TriowsError
from triows._options import Limits
from triows._spec import CloseCode, Opcode
from triows._stream import StreamDriver

Payload: TypeAlias = str | bytes | bytearray | memoryview


@attrs.frozen
class CloseReason:
    """Why a connection ended (RFC 6455 §7.1.5, §7.1.6).

    Its code is the peer's if the peer sent a Close frame; the one that this side
    sent if it gave the connection up; 1006 if the transport went without either.
    """

    code: int
    reason: str = ""


class ConnectionBroken(TriowsError, trio.BrokenResourceError):  # noqa: N818 - as Trio's
    """The connection ended, and not cleanly, or ended while there was something to send.

    Args:
        code: the close code, see `CloseReason`.
        reason: the peer's reason, or what this side found wrong.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection ended with code {code}: {reason!r}")
        self.code = code
        self.reason = reason


@attrs.frozen(kw_only=True)
class Opening:
    """What the opening handshake settled."""

    request: Request
    response: HTTPResponse | None = None
    subprotocol: str | None = None
    local: object = None
    remote: object = None


@attrs.frozen(kw_only=True)
class WebSocketStatistics:
    """A snapshot of one connection; sizes in octets of payload."""

    messages_sent: int
    messages_received: int
    octets_sent: int
    octets_received: int
    unread_messages: int
    unread_octets: int
    unsent_octets: int
    """Octets on the wire, headers included, that the transport has not taken yet."""
    tasks_waiting_to_send: int


@attrs.define(eq=False)
class _Ping:
    """A Ping whose Pong is awaited."""

    payload: bytes
    sent: float
    is_over: trio.Event = attrs.field(factory=trio.Event)
    round_trip: float | None = None


class WebSocket(trio.abc.Channel[str | bytes]):
    """A connection: ``async for message in ws``, ``await ws.send(message)``.

    Text messages are ``str``, binary messages ``bytes``. Any number of tasks may
    send, one at a time may receive. Leaving ``async with ws`` closes with 1000.

    triows makes these and gives them to handlers.

    Args:
        stream: open and past the opening handshake.
        engine: this end's engine.
        limits: of the queues.
        opening: what the handshake settled.
    """

    def __init__(
        self, stream: trio.abc.Stream, engine: Engine, *, limits: Limits, opening: Opening
    ) -> None:
        self._opening = opening
        self._engine = engine
        self._limits = limits
        self._driver = StreamDriver(stream, engine, self)
        self._inbox: deque[Message] = deque()
        self._unread_octets = 0
        self._is_paused = False
        self._receiver: trio.lowlevel.Task | None = None
        self._is_receiving = False
        self._turn = trio.Lock()
        self._room = trio.lowlevel.ParkingLot()
        self._pings: dict[bytes, _Ping] = {}
        self._ping_count = 0
        self._is_closed_here = False
        self._has_sent_close = False
        self._ended = trio.Event()
        self._sent = self._sent_octets = 0
        self._received = self._received_octets = 0

    # Sending.

    async def send(self, message: Payload) -> None:
        """Send a message (RFC 6455 §5.6, §6.1).

        Waits while `Limits.send_queue_octets` or more are unsent; a message of any
        size enters whole once they are fewer. Senders are served in order.

        Args:
            message: ``str`` is sent as text, anything else as binary.

        Raises:
            TypeError: *message* is neither text nor octets; nothing was sent.
            UnicodeEncodeError: it holds a lone surrogate; nothing was sent.
            trio.ClosedResourceError: `aclose` was called on this side; nothing was sent.
            ConnectionBroken: the connection has ended; nothing was sent.

        Cancelling: ``Cancelled`` means that nothing of the message was or will be sent;
        a return, that all of it will be, unless the connection ends first.
        """
        opcode, payload = _encode(message)
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_full or self._turn.locked():
            async with self._turn:
                await self._wait_for_room()
                self._queue(opcode, payload)
        else:
            self._queue(opcode, payload)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def send_nowait(self, message: Payload) -> None:
        """Send a message as `send` does, if that needs no waiting.

        Raises:
            trio.WouldBlock: there is no room now, or others wait for it; nothing was sent.

        And what `send` raises.
        """
        opcode, payload = _encode(message)
        if (self._is_full or self._turn.locked()) and self.is_open:
            raise trio.WouldBlock
        self._queue(opcode, payload)

    async def ping(self, payload: bytes | None = None) -> float:
        """Send a Ping, waiting for room as `send` does, and wait for its Pong (RFC 6455 §5.5.2).

        Args:
            payload: 0..125 octets, unlike those of any Ping that is waited for; by default
                some that are.

        Returns:
            The round-trip time in seconds, that behind unsent octets included.

        Raises:
            ValueError: *payload* is too long or waited for; nothing was sent.
            trio.ClosedResourceError: `aclose` was called on this side.
            ConnectionBroken: the connection ended before the Pong came.

        Cancelling leaves the connection usable; a late Pong is ignored.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_full or self._turn.locked():
            async with self._turn:
                await self._wait_for_room()
        ping = self._queue_ping(payload)
        try:
            await ping.is_over.wait()
        finally:
            if self._pings.get(ping.payload) is ping:
                del self._pings[ping.payload]
        if ping.round_trip is None:
            self._check_sendable()
            raise self._broken()
        return ping.round_trip

    # Receiving.

    async def receive(self) -> str | bytes:
        """Receive the next message (RFC 6455 §6.2).

        Raises:
            trio.EndOfChannel: the peer closed with 1000, 1001 or no code, and every
                message before that has been received.
            ConnectionBroken: the connection ended in any other way, likewise.
            trio.ClosedResourceError: `aclose` was called on this side.
            trio.BusyResourceError: another task is receiving.

        Cancelling loses no message.
        """
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        self._is_receiving = True
        try:
            if self._inbox:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._may_hear_more:
                    self._receiver = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._forget_receiver)
            return self._take()
        finally:
            self._is_receiving = False

    def receive_nowait(self) -> str | bytes:
        """Receive the next message if there is one.

        Raises:
            trio.WouldBlock: there is none yet.

        And what `receive` raises.
        """
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        if not self._inbox and self._may_hear_more:
            raise trio.WouldBlock
        return self._take()

    # Closing.

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection and wait for its end (RFC 6455 §7.1.2).

        What was sent before is still delivered; what has not been received is thrown
        away. Waits for the peer's Close at most `Limits.close_timeout`, then drops the
        transport. Once closed, or closing, calling again only waits.

        Args:
            code: 1000..1003, 1007..1014, 3000..4999, or 1005 to send none.
            reason: at most 123 octets in UTF-8.

        Raises:
            ValueError: *code* or *reason* may not be sent; nothing was done.

        Cancelling drops the transport at once.
        """
        if not self._is_closed_here:
            self._engine.close(code, reason, trio.current_time())
            self._is_closed_here = True
            self._inbox.clear()
            self._unread_octets = 0
            self._read_on()
            self._wake_everyone()
            self._driver.flush()
        try:
            await self._ended.wait()
        except BaseException:
            self.abort("closing was cancelled")
            raise

    async def send_close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send a Close, and go on receiving until the peer's comes (RFC 6455 §7.1.2).

        Afterwards nothing can be sent, but messages that the peer sends before its own Close
        can be received; `Limits.close_timeout` bounds the time for them. It does not wait.

        Args:
            code: as for `aclose`.
            reason: as for `aclose`.

        Raises:
            ValueError: *code* or *reason* may not be sent; nothing was done.
            trio.ClosedResourceError: it was called before, or `aclose` was.
            ConnectionBroken: the connection has ended; nothing was sent.

        Cancelling: ``Cancelled`` means that nothing was done.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_sendable()
        self._engine.close(code, reason, trio.current_time())
        self._has_sent_close = True
        self._room.unpark_all()
        self._driver.flush()
        await trio.lowlevel.cancel_shielded_checkpoint()

    # What is known.

    @property
    def request(self) -> Request:
        """The opening request (RFC 6455 §4.1)."""
        return self._opening.request

    @property
    def response(self) -> HTTPResponse | None:
        """The server's answer to the opening request; None on the server's side (§4.2.2)."""
        return self._opening.response

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that both sides agreed on, if any (RFC 6455 §1.9)."""
        return self._opening.subprotocol

    @property
    def local(self) -> object:
        """This side's address as its socket gives it, or None."""
        return self._opening.local

    @property
    def remote(self) -> object:
        """The peer's address as the socket gives it, or None."""
        return self._opening.remote

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the connection ended, or None while it has not."""
        outcome = self._engine.outcome
        if outcome is None:
            return None
        if isinstance(outcome, Lost):
            return CloseReason(CloseCode.ABNORMAL, outcome.reason)
        return CloseReason(outcome.code, outcome.reason)

    @property
    def is_open(self) -> bool:
        """Whether a message can be queued: neither side has closed, the transport works."""
        return (
            self._engine.phase is Phase.OPEN
            and not self._is_closed_here
            and not self._driver.is_broken
        )

    def statistics(self) -> WebSocketStatistics:
        """Return a snapshot of what went through and what waits."""
        return WebSocketStatistics(
            messages_sent=self._sent,
            messages_received=self._received,
            octets_sent=self._sent_octets,
            octets_received=self._received_octets,
            unread_messages=len(self._inbox),
            unread_octets=self._unread_octets,
            unsent_octets=self._engine.outbound.size,
            tasks_waiting_to_send=self._turn.statistics().tasks_waiting + len(self._room),
        )

    def __repr__(self) -> str:
        state = self.close_reason or self._engine.phase.value
        return f"<WebSocket with {self.remote}, {state}>"

    # What the driver and the shells call.

    async def run(self, leftover: bytes) -> None:
        """Serve the connection until its transport is dropped; for the shells."""
        try:
            await self._driver.run(leftover)
        finally:
            self._ended.set()
            self._wake_everyone()

    def abort(self, why: str) -> None:
        """Drop the transport at once; for the shells. Once the connection has ended, nothing."""
        if not self._ended.is_set():
            self._driver.abort(why)

    def deliver(self, events: Iterable[Event]) -> None:
        """Take what was received; for the driver."""
        for event in events:
            if type(event) is Message:
                self._admit(event)
            elif isinstance(event, Ponged):
                self._answer(event.payload)
            else:
                self._wake_everyone()
        if self._inbox and self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None

    def make_room(self) -> None:
        """Take note that octets have left; for the driver."""
        if not (self._is_full and self.is_open):
            self._room.unpark_all()

    # Inside.

    @property
    def _may_hear_more(self) -> bool:
        return not (self._engine.is_closed or self._is_closed_here)

    @property
    def _is_full(self) -> bool:
        return self._engine.outbound.size >= self._limits.send_queue_octets

    def _queue(self, opcode: int, payload: bytes) -> None:
        self._check_sendable()
        self._sent += 1
        self._sent_octets += len(payload)
        self._engine.send(opcode, payload)
        self._driver.flush()

    async def _wait_for_room(self) -> None:
        """Wait until there is room or no use for it; for whose turn it is to send."""
        while self._is_full and self.is_open:
            await self._room.park()

    def _queue_ping(self, payload: bytes | None) -> _Ping:
        self._check_sendable()
        if payload is None:
            payload = self._fresh_ping_payload()
        elif payload in self._pings:
            raise ValueError(f"a ping with the payload {payload!r} is waited for already")
        self._engine.ping(payload)
        ping = self._pings[payload] = _Ping(payload, trio.current_time())
        self._driver.flush()
        return ping

    def _fresh_ping_payload(self) -> bytes:
        while True:
            self._ping_count += 1
            payload = b"triows %d" % self._ping_count
            if payload not in self._pings:
                return payload

    def _check_sendable(self) -> None:
        if self._is_closed_here or self._has_sent_close:
            raise trio.ClosedResourceError("this WebSocket was closed")
        if not self.is_open:
            raise self._broken()

    def _admit(self, message: Message) -> None:
        self._received += 1
        self._received_octets += message.size
        if self._is_closed_here:
            return
        self._inbox.append(message)
        self._unread_octets += message.size
        if not self._is_paused and (
            self._unread_octets >= self._limits.receive_queue_octets
            or len(self._inbox) >= self._limits.receive_queue_messages
        ):
            self._is_paused = True
            self._driver.pause()

    def _take(self) -> str | bytes:
        if not self._inbox:
            self._raise_ended()
        message = self._inbox.popleft()
        self._unread_octets -= message.size
        if (
            self._is_paused
            and self._unread_octets <= self._limits.receive_queue_octets // 2
            and len(self._inbox) <= self._limits.receive_queue_messages // 2
        ):
            self._read_on()
        return message.payload

    def _read_on(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._driver.resume()

    def _forget_receiver(self, _: Any) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _answer(self, payload: bytes) -> None:
        """A Pong answers its Ping, and all that were sent before it (§5.5.3)."""
        if payload not in self._pings:
            return
        now = trio.current_time()
        for sent in list(self._pings):
            ping = self._pings.pop(sent)
            ping.round_trip = now - ping.sent
            ping.is_over.set()
            if sent == payload:
                break

    def _wake_everyone(self) -> None:
        if self._receiver is not None:
            trio.lowlevel.reschedule(self._receiver)
            self._receiver = None
        self._room.unpark_all()
        for ping in self._pings.values():
            ping.is_over.set()

    def _raise_ended(self) -> NoReturn:
        if self._is_closed_here:
            raise trio.ClosedResourceError("this WebSocket was closed")
        outcome = self._engine.outcome
        if isinstance(outcome, Closed) and outcome.code in _CLEAN:
            raise trio.EndOfChannel
        raise self._broken()

    def _broken(self) -> ConnectionBroken:
        reason = self.close_reason or CloseReason(CloseCode.ABNORMAL, "the transport broke")
        return ConnectionBroken(reason.code, reason.reason)


# Members of an IntEnum are slow to compute with.
_TEXT, _BINARY = int(Opcode.TEXT), int(Opcode.BINARY)
_CLEAN = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS)


def _encode(message: Payload) -> tuple[int, bytes]:
    if isinstance(message, str):
        return _TEXT, message.encode()
    if isinstance(message, (bytes, bytearray, memoryview)):
        return _BINARY, bytes(message)
    raise TypeError(f"a message is str or bytes, not {type(message).__name__}")

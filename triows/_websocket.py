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

- **Ctrl-C tears nothing.** What runs between two checkpoints here is protected from
  KeyboardInterrupt; it strikes the users' code instead, or the main task.

The parts are in `triows._channel`; what moves the octets is behind `triows._driver`.
"""

import contextlib
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import attrs
import trio
from trio.lowlevel import checkpoint_if_cancelled, current_task, enable_ki_protection

from triows._channel import (
    CloseReason,
    ConnectionBroken,
    Ending,
    Inbox,
    IncomingMessage,
    Outbox,
    OutgoingMessage,
    Payload,
    Pings,
)
from triows._channel._outbox import BINARY, TEXT, encode_message
from triows._driver import Driver, Sink
from triows._engine import (
    Deflated,
    DeflateParameters,
    Event,
    HTTPResponse,
    Message,
    Part,
    Ponged,
    PreparedMessage,
    Request,
)
from triows._options import Limits
from triows._spec import CloseCode
from triows._traps import NOTHING, checkpoint, give_way


@attrs.frozen(kw_only=True)
class Opening:
    """What the opening handshake settled."""

    request: Request
    response: HTTPResponse | None = None
    subprotocol: str | None = None
    local: object = None
    remote: object = None


class Attached(Protocol):
    """What is attached to a connection, to send by it."""

    def feed(self) -> None:
        """Send more: octets have left."""

    def end(self) -> None:
        """Send nothing more."""


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


class WebSocket(trio.abc.Channel[str | bytes]):
    """A connection: ``async for message in ws``, ``await ws.send(message)``.

    Text messages are ``str``, binary messages ``bytes``. Any number of tasks may
    send, one at a time may receive. Leaving ``async with ws`` closes with 1000.

    triows makes these and gives them to handlers.

    Args:
        make_driver: makes what drives the connection, which is past the opening handshake,
            and delivers to the `Sink` that it is called with.
        limits: of the queues.
        opening: what the handshake settled.
    """

    def __init__(
        self, make_driver: Callable[[Sink], Driver], *, limits: Limits, opening: Opening
    ) -> None:
        self._opening = opening
        self._driver = driver = make_driver(self)
        self._ending = Ending(driver)
        self._inbox = Inbox(driver, limits, self._ending)
        self._outbox = Outbox(driver, limits.send_queue_octets, self._ending)
        self.take_message = self._inbox.take_message
        """Takes a message that was received; for the driver."""
        self._scopes: tuple[trio.CancelScope, ...] = ()
        self._attached: tuple[Attached, ...] = ()
        # Made when they are first needed: most connections only wait for messages.
        self._pings_or_none: Pings | None = None
        self._ended_or_none: trio.Event | None = None

    # Sending.

    @enable_ki_protection
    async def send(
        self, message: Payload | PreparedMessage, *, compress: bool | None = None
    ) -> None:
        """Send a message (RFC 6455 §5.6, §6.1).

        Waits while `Limits.send_queue_octets` or more are unsent; a message of any
        size enters whole once they are fewer. Senders are served in order.

        Args:
            message: ``str`` is sent as text, octets as binary, a `PreparedMessage` as what it
                was made of.
            compress: where that was agreed on (RFC 7692): None as `Deflate` says, True and
                False whatever it says. A `PreparedMessage` has an answer of its own.

        Raises:
            TypeError: *message* is neither text nor octets; nothing was sent.
            UnicodeEncodeError: it holds a lone surrogate; nothing was sent.
            trio.ClosedResourceError: `aclose` was called on this side; nothing was sent.
            ConnectionBroken: the connection has ended; nothing was sent.

        Cancelling: ``Cancelled`` means that nothing of the message was or will be sent;
        a return, that all of it will be, unless the connection ends first.
        """
        opcode, payload = encode_message(message, compress)
        await checkpoint_if_cancelled()
        outbox = self._outbox
        if not outbox.offer(opcode, payload):
            if outbox.must_wait:
                await outbox.wait()
            outbox.queue(opcode, payload)
        await give_way()

    @enable_ki_protection
    def send_nowait(
        self, message: Payload | PreparedMessage, *, compress: bool | None = None
    ) -> None:
        """Send a message as `send` does, if that needs no waiting.

        Raises:
            trio.WouldBlock: there is no room now, or others wait for it; nothing was sent.

        And what `send` raises.
        """
        opcode, payload = encode_message(message, compress)
        outbox = self._outbox
        if not outbox.offer(opcode, payload):
            if outbox.must_wait and self.is_open:
                raise trio.WouldBlock
            outbox.queue(opcode, payload)

    @asynccontextmanager
    @enable_ki_protection
    async def open_message(
        self, *, text: bool, compress: bool = True
    ) -> AsyncIterator[OutgoingMessage]:
        """Send a message in parts, for the time of an ``async with`` block (RFC 6455 §5.4).

        The block gets an `OutgoingMessage`; ``await message.send(part)`` sends a part, and
        leaving the block makes the message whole. Entering it waits as `send` does. Until it
        is left other tasks' messages wait, but Pings do not.

        An exception that leaves the block, once a part was sent, closes the connection with
        1011: the message can neither be finished nor taken back. The peer never gets it.
        What the peer still sends can be received. If no part was sent, nothing has happened.

        Args:
            text: whether the parts are ``str``, which are sent as one text; otherwise they
                are octets.
            compress: whether to compress it, where that was agreed on; a part is sent so that
                the peer can inflate all of it.

        Raises:
            trio.ClosedResourceError: `aclose` was called on this side, before the block or
                in it; the message was not sent whole.
            ConnectionBroken: the connection has ended, likewise.
            RuntimeError: from `send` or `open_message` in the block, by the same task.

        Cancelling, on entering: nothing was sent. In the block it is an exception as any;
        but ``Cancelled`` that comes from a part and does not leave the block does no harm.
        """
        outbox = self._outbox
        await outbox.take_floor()
        message = OutgoingMessage(outbox, TEXT if text else BINARY, compress=compress)
        try:
            yield message
            message.end()
        except BaseException:
            message.give_up()
            if message.has_begun and self.is_open:
                self._end_sending(CloseCode.INTERNAL_ERROR, "message not finished")
            raise
        finally:
            outbox.leave_floor()
        await give_way()

    @enable_ki_protection
    async def ping(self, payload: bytes | None = None) -> float:
        """Send a Ping, waiting for room as `send` does, and wait for its Pong (RFC 6455 §5.5.2).

        Args:
            payload: 0..125 octets, unlike those of any Ping that is waited for; by default
                some that are.

        Returns:
            The round-trip time in seconds, that behind unsent octets included.

        Raises:
            TypeError, ValueError: *payload* is no ``bytes``, too long or waited for; nothing was
                sent.
            trio.ClosedResourceError: `aclose` was called on this side.
            ConnectionBroken: the connection ended before the Pong came.

        Cancelling leaves the connection usable; a late Pong is ignored.
        """
        await checkpoint_if_cancelled()
        if self._outbox.must_wait:
            await self._outbox.wait_for_room()
        self._ending.check_sendable()
        payload = self._pings.choose(payload)
        self._driver.ping(payload)
        ping = self._pings.add(payload, trio.current_time())
        try:
            await ping.is_over.wait()
        finally:
            self._pings.forget(ping)
        if ping.round_trip is None:
            self._ending.check_sendable()
            raise self._ending.broken()
        return ping.round_trip

    # Receiving.

    @enable_ki_protection
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
        inbox = self._inbox
        inbox.reserve()
        try:
            await inbox.wait()
            return self._take()
        finally:
            inbox.release()

    @enable_ki_protection
    @types.coroutine
    def __anext__(self) -> Generator[Any, Any, str | bytes]:
        """Do what `receive` does, which see, nearly without a call: for ``async for``."""
        inbox = self._inbox
        if inbox.is_reserved:
            inbox.reserve()  # which raises
        inbox.is_reserved = True
        try:
            if inbox.items or not self._ending.may_hear_more:
                yield from checkpoint()
            else:
                inbox.sleeper = current_task()
                outcome = yield inbox.parking
                if outcome is not NOTHING:
                    outcome.unwrap()
            return self._take()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        finally:
            inbox.is_reserved = False

    @enable_ki_protection
    def receive_nowait(self) -> str | bytes:
        """Receive the next message if there is one.

        Raises:
            trio.WouldBlock: there is none yet.

        And what `receive` raises.
        """
        inbox = self._inbox
        inbox.reserve()
        try:
            if not inbox and self._ending.may_hear_more:
                raise trio.WouldBlock
            return self._take()
        finally:
            inbox.release()

    @enable_ki_protection
    async def receive_batch(self, max: int) -> list[str | bytes]:  # noqa: A002 - as in max_bytes
        """Receive the messages that are there, waiting for the first.

        One task that takes many messages at a time saves a scheduling pass for each.

        Args:
            max: how many at the most, 1 or more. Fewer come where there are more, once those
                of them that were compressed have grown by a MiB.

        Returns:
            1..max messages, in order.

        Raises:
            ValueError: *max* is less than 1.

        And what `receive` raises, when there is no message before the end.

        Cancelling loses no message.
        """
        if max < 1:
            raise ValueError(f"a batch is of 1 message or more, not {max}")
        inbox = self._inbox
        inbox.reserve()
        try:
            await inbox.wait()
            batch = [self._take()]
            enough = inbox.inflated + _BATCH_OCTETS
            with contextlib.suppress(ConnectionBroken):  # the next call raises it
                while inbox and len(batch) < max and inbox.inflated < enough:
                    batch.append(self._take())
            return batch
        finally:
            inbox.release()

    @asynccontextmanager
    @enable_ki_protection
    async def receive_parts(self) -> AsyncIterator[IncomingMessage]:
        """Receive the next message in parts as they come (RFC 6455 §5.4).

        The block gets an `IncomingMessage`: ``async for part in message``. Entering it waits
        for the message to begin. Parts are what the transport happens to give, but never
        empty; what is unread is bounded as whole messages are, so that a message may be far
        larger than memory where `Limits.max_message` and ``message_timeout`` allow it. What
        the block leaves unread of the message is thrown away. Until it is left, no one else
        can receive.

        Raises:
            What `receive` raises, on entering.

        Cancelling, on entering, loses nothing. In the block, the rest of the message is
        thrown away, as by any other way of leaving it.
        """
        inbox = self._inbox
        inbox.reserve()
        try:
            await inbox.wait_for_parts()
            first = inbox.peek()
            if first is None:
                self._ending.raise_ended()
            message = IncomingMessage(inbox, self._ending, first)
            try:
                yield message
            finally:
                message.leave()
        finally:
            inbox.release()

    # Closing.

    @enable_ki_protection
    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection and wait for its end (RFC 6455 §7.1.2).

        What was sent before is still delivered; what has not been received is thrown
        away. Waits for the peer's Close at most `Limits.close_timeout`, then drops the
        transport. Once closed, or closing, calling again only waits.

        Args:
            code: 1000..1003, 1007..1014, 3000..4999, or 1005 to send none.
            reason: at most 123 octets in UTF-8.

        Raises:
            TypeError, ValueError: *code* or *reason* may not be sent; nothing was done.

        Cancelling drops the transport at once.
        """
        if not self._ending.is_closed_here:
            self._driver.close(code, reason)
            self._ending.is_closed_here = True
            self._ending.look()
            self._inbox.clear()
            self._wake_everyone()
        try:
            await self._ended.wait()
        except BaseException:
            self.abort("closing was cancelled")
            raise

    @enable_ki_protection
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
        await checkpoint_if_cancelled()
        self._ending.check_sendable()
        self._end_sending(code, reason)
        await give_way()

    @asynccontextmanager
    @enable_ki_protection
    async def cancel_on_close(self) -> AsyncIterator[trio.CancelScope]:
        """Cancel the ``async with`` block when the connection ends.

        That is when the peer's Close arrives or the connection breaks, even if there are
        messages before it that were not received; and once `aclose` is done on this side.
        The block is left without an exception then, and ``scope.cancelled_caught`` is true.
        When the connection has ended before, the block's first checkpoint ends it.

        Returns:
            The block's scope.

        Cancelling is that of the block.
        """
        await trio.lowlevel.checkpoint()
        with trio.CancelScope() as scope:
            if self._ended.is_set() or not self._ending.may_hear_more:
                scope.cancel()
            self._scopes += (scope,)
            try:
                yield scope
            finally:
                self._scopes = tuple(one for one in self._scopes if one is not scope)

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
    def deflate(self) -> DeflateParameters | None:
        """How messages are compressed, if both sides agreed to that (RFC 7692 §7.1)."""
        deflate = self._driver.deflate
        return None if deflate is None else deflate.parameters

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
        return self._ending.reason

    @property
    def is_open(self) -> bool:
        """Whether a message can be queued: neither side has closed, the transport works."""
        return self._driver.is_open and not self._ending.is_closed_here

    def statistics(self) -> WebSocketStatistics:
        """Return a snapshot of what went through and what waits."""
        inbox, outbox = self._inbox, self._outbox
        return WebSocketStatistics(
            messages_sent=outbox.sent,
            messages_received=inbox.received,
            octets_sent=outbox.sent_octets,
            octets_received=inbox.received_octets,
            unread_messages=len(inbox),
            unread_octets=inbox.octets,
            unsent_octets=self._driver.unsent,
            tasks_waiting_to_send=outbox.waiting,
        )

    def __repr__(self) -> str:
        state = self.close_reason or ("open" if self.is_open else "closing")
        return f"<WebSocket with {self.remote}, {state}>"

    # What the driver and the shells call.

    @enable_ki_protection
    def start(self, leftover: bytes) -> bool:
        """Serve the connection if that needs no task, else return False; for the shells."""
        return self._driver.start(leftover)

    @enable_ki_protection
    async def run(self, leftover: bytes) -> None:
        """Serve the connection until its transport is dropped; for the shells."""
        if self._driver.start(leftover):
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            return
        try:
            await self._driver.run(leftover)
        finally:
            self.end()

    @enable_ki_protection
    def abort(self, why: str) -> None:
        """Drop the transport at once; for the shells. Once the connection has ended, nothing."""
        if not self._ended.is_set():
            self._driver.abort(why)

    def deliver(self, events: Iterable[Event]) -> None:
        """Take what was received; for the driver."""
        inbox = self._inbox
        for event in events:
            if type(event) is Message or type(event) is Part or type(event) is Deflated:
                inbox.admit(event)
            elif isinstance(event, Ponged):
                self._pings.answer(event.payload, trio.current_time())
            else:
                self._ending.look()
                self._wake_everyone()
                if not self._ending.is_closed_here:  # else once it is over: `aclose` goes on
                    self._cancel_scopes()
        if inbox.items:
            inbox.wake()

    @property
    def has_unread(self) -> bool:
        """Whether something is to be received that came before; for the driver."""
        return bool(self._inbox.items)

    def make_room(self) -> None:
        """Take note that octets have left, or never will; for the driver."""
        self._outbox.make_room()
        for one in self._attached:
            one.feed()

    def attach(self, attached: Attached) -> Driver:
        """Have what is attached told when it may send, and when that is over; for channels.

        Returns:
            What it sends by.

        Raises:
            trio.ClosedResourceError: this side closed.
            ConnectionBroken: the connection has ended.
        """
        self._ending.check_sendable()
        self._attached += (attached,)
        return self._driver

    def detach(self, attached: Attached) -> None:
        """Tell it nothing more."""
        self._attached = tuple(one for one in self._attached if one is not attached)

    def end(self) -> None:
        """Take note that the transport has been dropped; for the driver."""
        self._ended.set()
        self._ending.look()
        self._wake_everyone()
        self._cancel_scopes()

    # Inside.

    @property
    def _pings(self) -> Pings:
        if self._pings_or_none is None:
            self._pings_or_none = Pings()
        return self._pings_or_none

    @property
    def _ended(self) -> trio.Event:
        """Set once the transport has been dropped."""
        if self._ended_or_none is None:
            self._ended_or_none = trio.Event()
        return self._ended_or_none

    def _take(self) -> str | bytes:
        inbox = self._inbox
        if not inbox.items:
            self._ending.raise_ended()
        item = inbox.items.pop(0)
        if type(item) is not tuple and type(item) is not Message:
            inbox.octets -= item.size
            item = inbox.inflate(item)
        else:
            inbox.octets -= item[1]
        if inbox.is_paused:
            inbox.read_on_if_there_is_room()
        payload: str | bytes = item[0]
        return payload

    def _end_sending(self, code: int, reason: str) -> None:
        """Send a Close, and nothing after it; go on receiving."""
        self._driver.close(code, reason)
        self._ending.has_sent_close = True
        self._outbox.make_room()
        self._detach_all()

    def _wake_everyone(self) -> None:
        self._inbox.wake()
        self._outbox.make_room()
        self._pings.give_up()
        self._detach_all()

    def _detach_all(self) -> None:
        attached, self._attached = self._attached, ()
        for one in attached:
            one.end()

    def _cancel_scopes(self) -> None:
        for scope in self._scopes:
            scope.cancel()


_BATCH_OCTETS = 2**20

"""Messages in parts, one that is sent and one that is received (RFC 6455 §5.4).

No part of a message has a meaning to the protocol: where one ends and the next
begins is the sender's affair on the way out, and chance on the way in.
"""

import codecs

import trio
from trio.lowlevel import enable_ki_protection

from triows import _kernels as kernels
from triows._channel._ending import Ending
from triows._channel._inbox import Inbox
from triows._channel._outbox import TEXT, Outbox, Payload, encode
from triows._engine import Deflated, InflateError, Message, Part
from triows._traps import give_way

PART_SIZE = 65_536
"""Octets that a compressed message is inflated to at a time."""


class OutgoingMessage:
    """A message that is sent in parts; `WebSocket.open_message` makes these."""

    def __init__(self, outbox: Outbox, opcode: int, *, compress: bool) -> None:
        self._outbox = outbox
        self._opcode = opcode
        self._compress = compress
        self._is_sending = False
        self._is_over = False
        self.has_begun = False
        """Whether a part was sent."""

    @enable_ki_protection
    async def send(self, part: Payload) -> None:
        """Send the next part, as a frame of its own; an empty one sends nothing.

        Waits for room as `WebSocket.send` does.

        Args:
            part: ``str`` if the message is text, octets otherwise.

        Raises:
            TypeError: *part* is of the wrong kind; nothing was sent.
            UnicodeEncodeError: it holds a lone surrogate; nothing was sent.
            trio.BusyResourceError: another task is sending a part of this message.
            trio.ClosedResourceError: the message has ended, or `aclose` was called on this
                side; nothing was sent.
            ConnectionBroken: the connection has ended; nothing was sent.

        Cancelling: ``Cancelled`` means that nothing of the part was or will be sent, and
        the message can go on, if its block is not left with the exception.
        """
        opcode, octets = encode(part)
        if opcode != self._opcode:
            kind = "text" if self._opcode == TEXT else "binary"
            raise TypeError(f"a part of a {kind} message cannot be {type(part).__name__}")
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending a part of this message")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_sending = True
        try:
            if self._outbox.is_full:
                await self._outbox.wait_for_room()
            self._queue(octets)
        finally:
            self._is_sending = False
        await give_way()

    def end(self) -> None:
        """Make the message whole; for `WebSocket`."""
        self._is_over = True
        self._outbox.queue_part(self._opcode, b"", is_last=True, compress=self._compress)

    def give_up(self) -> None:
        """Send no further part; for `WebSocket`."""
        self._is_over = True

    def _queue(self, octets: bytes) -> None:
        if self._is_over:
            raise trio.ClosedResourceError("this message has ended")
        if octets:
            self._outbox.queue_part(self._opcode, octets, is_last=False, compress=self._compress)
            self.has_begun = True


class IncomingMessage:
    """A message that is received in parts, which ``async for`` gives.

    `WebSocket.receive_parts` makes these.
    """

    def __init__(self, inbox: Inbox, ending: Ending, first: Message | Part | Deflated) -> None:
        self._inbox = inbox
        self._ending = ending
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_receiving = False
        self._is_left = False
        self._has_more = False  # inflated, of the last item that was taken
        self._is_last = False  # that item
        self.is_text = (
            isinstance(first.payload, str) if isinstance(first, Message) else first.opcode == TEXT
        )
        """Whether the parts are ``str``; otherwise they are ``bytes``."""
        self.is_whole = False
        """Whether the last part has been received."""

    @enable_ki_protection
    async def receive(self) -> str | bytes:
        """Receive the next part, which is never empty.

        Raises:
            trio.EndOfChannel: there is none: the message is whole.
            ConnectionBroken: the connection ended before it was.
            trio.ClosedResourceError: the block was left, or `aclose` was called on this side.
            trio.BusyResourceError: another task is receiving a part.

        Cancelling loses nothing.
        """
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving this message")
        self._is_receiving = True
        try:
            while True:
                await self._wait()
                if self._is_left:
                    raise trio.ClosedResourceError("this message was left")
                if self.is_whole:
                    raise trio.EndOfChannel
                if part := self._take():
                    return part
        finally:
            self._is_receiving = False

    def __aiter__(self) -> "IncomingMessage":
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def leave(self) -> None:
        """Throw away what was not received; for `WebSocket`."""
        self._is_left = True
        if not self.is_whole:
            self._inbox.skip_message(is_all_taken=self._is_last)
            self._inbox.wake()

    async def _wait(self) -> None:
        if self.is_whole or self._is_left or self._has_more:
            await trio.lowlevel.checkpoint()
        else:
            await self._inbox.wait()

    def _take(self) -> str | bytes:
        if self._has_more:
            return self._take_inflated()
        if not len(self._inbox):
            self._ending.raise_ended_within_a_message()
        item = self._inbox.take()
        if isinstance(item, Deflated):
            self._inbox.note_inflated(-item.size)
            self._inbox.inflater.feed(item.octets, is_last=item.is_last)
            self._is_last = item.is_last
            return self._take_inflated()
        if isinstance(item, Message):
            self.is_whole = True
            return item.payload
        self.is_whole = item.is_last
        if self.is_text:
            return self._decoder.decode(item.payload, item.is_last)
        return item.payload

    def _take_inflated(self) -> str | bytes:
        """Inflate some more of the item that was taken."""
        inbox = self._inbox
        part: str | bytes | None = None
        try:
            octets = inbox.inflater.take(PART_SIZE)
            self._has_more = inbox.inflater.has_more
            self.is_whole = self._is_last and not self._has_more
            inbox.note_inflated(len(octets))
            part = self._decode(octets) if self.is_text else octets
        except InflateError as error:
            self._has_more = False
            inbox.fail(error)
        if part is None:  # as in `Inbox.inflate`
            self._ending.raise_ended_within_a_message()
        return part

    def _decode(self, octets: bytes) -> str:
        try:
            return self._decoder.decode(octets, self.is_whole)
        except UnicodeDecodeError:
            raise InflateError(kernels.INVALID_UTF8) from None

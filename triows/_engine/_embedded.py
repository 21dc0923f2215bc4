"""The engine for those who bring their own loop: whole frames in, replies in place.

Once a payload is unmasked, the four mask octets before it are free, and a
server's header for fewer than 65,536 octets (two or four) fits into them. Payload
and header are then one slice of the very buffer that was received into: the
reply needs no copy and no second piece. Longer payloads, and input that was
never masked, get a header of the engine's own and leave as two segments; what
arrived in pieces was copied to be joined, and leaves from there.
"""

import enum
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from triows import _kernels as kernels
from triows._engine._base import Engine
from triows._engine._closing import Phase
from triows._engine._deflate import PerMessageDeflate
from triows._engine._events import Deflated
from triows._engine._frames import FIN, Piece, header_size
from triows._engine._messages import Budget
from triows._engine._octets import Octets, Writable, writable_octets
from triows._engine._replies import InputSegment, Replies, Segment
from triows._errors import ProtocolError
from triows._options import KeepAlive, Limits
from triows._spec import MAX_HEADER, CloseCode, Opcode

_IN_PLACE = 65_536


class Response(enum.IntEnum):
    """What a handler wants done with a message."""

    DISCARD = 0
    """Nothing."""
    ECHO = 1
    """Send it back, with whatever the handler changed in it."""
    CLOSE = 2
    """Close the connection with 1000 (RFC 6455 §7.1.2)."""
    DELIVER = 3
    """Of a reactor's compiled handler: hand it to the handler in Python."""
    PUBLISH = 10
    """Of a reactor's compiled handler: publish it to the channel that the connection was
    attached to with ``publishes=True``."""


Handler: TypeAlias = Callable[[memoryview, int], Response]
"""Called with a message's payload, a writable view until it returns, and its opcode."""


class EmbeddedEngine(Engine):
    """An engine that calls a handler for each message and leaves replies as segments."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        keepalive: KeepAlive | None = None,
        now: float = 0.0,
        budget: Budget | None = None,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        super().__init__(
            limits=limits, keepalive=keepalive, now=now, budget=budget, deflate=deflate
        )
        self._replies = Replies()

    def process(
        self,
        buffer: Writable,
        write: Callable[[memoryview], object],
        handler: Handler,
        *,
        now: float = 0.0,
    ) -> None:
        """Take received octets and give the replies to *write*, in order.

        Args:
            buffer: what the peer sent next, cut anywhere; overwritten with replies.
            write: called with each piece of the replies, valid until it returns.
            handler: called for each whole message; what it sends goes out before its echo.
            now: the time in seconds, for embedders who use deadlines.

        Raises:
            ProtocolError: the peer broke the protocol. Messages before that were handled,
                and their replies and a Close frame with the error's code were written.
            Exception: whatever *handler* raised, likewise, with the code 1011.
            TypeError: *buffer* is read-only or not contiguous; nothing was done.
            RuntimeError: segments of `process_into` were not cleared; nothing was done.
        """
        octets = self._admit(buffer)
        try:
            self._process(octets, handler, now)
        finally:
            view = octets.data
            local = self.outbound_local()
            segments = self.outbound_segments()
            self.clear_outbound()
            for segment in segments:
                source = view if isinstance(segment, InputSegment) else local
                write(source[segment.start : segment.start + segment.size])

    def process_into(self, buffer: Writable, handler: Handler, *, now: float = 0.0) -> None:
        """Take received octets and leave the replies as segments.

        Read them from `outbound_segments` and `outbound_local`, and `clear_outbound`
        before the next call. Arguments and errors are those of `process`.
        """
        self._process(self._admit(buffer), handler, now)

    def outbound_segments(self) -> list[Segment]:
        """Return where the octets to send lie, in order.

        What `send`, `ping`, `close` and `handle_timeout` have queued is among them.
        """
        self._localise()
        return list(self._replies.segments)

    def outbound_local(self) -> memoryview:
        """Return the octets that `LocalSegment` speaks of; they stay until `clear_outbound`."""
        self._localise()
        return self._replies.local()

    def clear_outbound(self) -> None:
        """Forget the segments: their octets were sent or copied."""
        self._replies.clear()

    def _admit(self, buffer: Writable) -> Octets:
        octets = writable_octets(buffer)
        if self._replies.segments:
            raise RuntimeError("clear_outbound() must come before the next octets")
        return octets

    def _process(self, octets: Octets, handler: Handler, now: float) -> None:
        self._localise()
        if self.is_closed:
            return
        self._time.heard(now)
        try:
            for source, pieces in self._reader.read(octets):
                self._process_batch(source, pieces, handler, now, is_input=source is octets)
        except ProtocolError as error:
            if not self.is_closed:  # else it was the handler that raised it
                self._fail(error, now, [])
            raise
        finally:
            self._note_incomplete(now)
            self._localise()

    def _process_batch(
        self, octets: Octets, pieces: list[Piece], handler: Handler, now: float, *, is_input: bool
    ) -> None:
        view = octets.data
        for piece in pieces:
            opcode, flags, start, size, _ = piece
            payload = view[start : start + size]
            if opcode >= Opcode.CLOSE:
                self._take_control(opcode, bytes(payload), now, [])
                self._localise()
            elif flags == kernels.WHOLE:
                if self._ask(handler, payload, opcode, now):
                    self._echo(octets, piece, is_input=is_input)
            else:
                self._assembly.add(payload)
                if flags & kernels.MESSAGE_END:
                    joined = self._finish_message()
                    process = self._process_joined
                    if flags & kernels.COMPRESSED:
                        process = self._process_deflated
                    process(opcode, joined, handler, now)
        self._note_whole()

    def _process_joined(
        self, opcode: int, payload: bytearray, handler: Handler, now: float
    ) -> None:
        if self._ask(handler, memoryview(payload), opcode, now):
            self._replies.append_local(self._frame(FIN | opcode, payload))

    def _process_deflated(
        self, opcode: int, payload: bytearray, handler: Handler, now: float
    ) -> None:
        assert self.deflate is not None
        inflated = bytearray(self.deflate.inflater.octets(Deflated(bytes(payload), opcode)))
        if self._ask(handler, memoryview(inflated), opcode, now):
            self.send(opcode, inflated)
            self._localise()

    def _ask(self, handler: Handler, payload: memoryview, opcode: int, now: float) -> bool:
        """Call the handler; returns whether to echo: not once a Close was sent."""
        try:
            response = handler(payload, opcode)
        except BaseException:
            self._fail(ProtocolError(CloseCode.INTERNAL_ERROR, "internal error"), now, [])
            raise
        if response == Response.CLOSE:
            self.close(CloseCode.NORMAL, "", now)
        self._localise()
        return response == Response.ECHO and self.phase is Phase.OPEN

    def _echo(self, octets: Octets, piece: Piece, *, is_input: bool) -> None:
        opcode, _, start, size, header = piece
        if not is_input:
            self._replies.append_local(self._frame(FIN | opcode, octets[start : start + size].data))
        elif header > header_size(size, is_masked=False) and size < _IN_PLACE:
            begin = start - header_size(size, is_masked=False)
            kernels.write_header(octets, begin, FIN | opcode, size, -1)
            self._replies.append_input(begin, start - begin + size)
        else:
            self._replies.append_local(self._local_header(FIN | opcode, octets, start, size))
            self._replies.append_input(start, size)

    def _local_header(self, first_octet: int, octets: Octets, start: int, size: int) -> bytes:
        """Build the header for a reply that stays where it is, masking it if need be."""
        key = self._mask_in_place(octets[start : start + size])
        header = np.empty(MAX_HEADER, np.uint8)
        written = kernels.write_header(header, 0, first_octet, size, key)
        return header[:written].tobytes()

    @abstractmethod
    def _mask_in_place(self, payload: Octets) -> int:
        """Mask a reply if this role does; returns the key, -1 for none."""

    def _localise(self) -> None:
        """Move what the engine itself has queued behind the segments so far."""
        while self.outbound.size:
            for chunk in self.outbound.peek():
                self._replies.append_local(chunk)
                self.outbound.consume(len(chunk))

"""What the engines of both roles share: one connection after its opening, without I/O.

Octets and the time go in; events, and octets to send, come out. The engine
answers Pings and Closes by itself, refuses what RFC 6455 refuses, and knows the
deadlines; when to read, to write and to look at the clock is its driver's
business.
"""

from abc import ABC, abstractmethod

from triows import _kernels as kernels
from triows._engine._closing import TRANSITIONS, Input, Phase
from triows._engine._deflate import PerMessageDeflate
from triows._engine._events import Closed, Deflated, Event, Failed, Lost, Message, Part, Ponged
from triows._engine._frames import FIN, RSV1, FrameReader, Piece
from triows._engine._messages import Assembly, Budget
from triows._engine._octets import Readable, own_octets
from triows._engine._outbound import Outbound
from triows._engine._prepared import PreparedMessage
from triows._engine._timekeeper import Due, Timekeeper
from triows._errors import ProtocolError
from triows._options import KeepAlive, Limits, check_kind
from triows._spec import MAX_CONTROL_PAYLOAD, MAX_REASON, CloseCode, Opcode, is_sendable

KEEPALIVE_PAYLOAD = b"triows keepalive"
"""Tells the engine's own Pings from the application's."""


def close_payload(code: int, reason: str) -> bytes:
    """Build the payload of a Close frame (RFC 6455 §5.5.1).

    Args:
        code: a code that may be sent, or 1005 for an empty payload.
        reason: at most 123 octets in UTF-8.

    Raises:
        TypeError: the code is no integer, or the reason no ``str``.
        ValueError: the code may not be sent, or the reason is too long or goes without a code.
    """
    check_kind("the close code", code, int)
    check_kind("the close reason", reason, str)
    octets = reason.encode()
    if code == CloseCode.NO_STATUS:
        if octets:
            raise ValueError("a close reason needs a code")
        return b""
    if not is_sendable(code):
        raise ValueError(f"close code {code} may not be sent")
    if len(octets) > MAX_REASON:
        raise ValueError(f"the close reason has {len(octets)} octets, {MAX_REASON} are allowed")
    return code.to_bytes(2, "big") + octets


class Engine(ABC):
    """One open connection: what it has received, what it owes, how it ends.

    Args:
        limits: what the peer may make this side hold or wait for.
        keepalive: when to ping a quiet peer.
        now: the time at which the connection opened, in seconds of any clock.
        budget: the octets of unfinished messages that it shares with other connections.
        deflate: what the connection's messages are compressed with, if that was agreed on.

    `outbound` holds the octets to send; `phase` says where the connection stands;
    `outcome` how it ended, once it has.
    """

    is_server: bool

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        keepalive: KeepAlive | None = None,
        now: float = 0.0,
        budget: Budget | None = None,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        limits = limits or Limits()
        self.deflate = deflate
        self._deflater = None if deflate is None else deflate.deflater
        self.outbound = Outbound()
        self.phase = Phase.OPEN
        self.outcome: Closed | Failed | Lost | None = None
        self._reader = FrameReader(
            limits, expect_mask=self.is_server, allows_rsv1=deflate is not None
        )
        self._assembly = Assembly(budget or Budget(limits.max_incomplete))
        self._time = Timekeeper(limits, keepalive or KeepAlive(), now)
        self._opcode = 0  # of the message under way
        self._gives_parts = False
        self._is_deflated = False  # that message
        self._is_sending_parts = self._compresses_parts = False

    # What goes in.

    def receive(self, buffer: Readable, now: float) -> list[Event]:
        """Take what the peer sent next (RFC 6455 §5, §6.2).

        Args:
            buffer: any number of octets, cut anywhere; unmasked in place if writable.
            now: the time, in seconds.

        Returns:
            What it amounts to, in order. Replies are in `outbound`. Compressed messages are
            inflated by whoever takes them, in order, with `deflate`; `fail` tells the peer
            of those that cannot be.
        """
        events: list[Event] = []
        if self.phase not in _LISTENING:
            return events
        self._time.heard(now)
        try:
            for octets, pieces in self._reader.read(own_octets(buffer)):
                self._take_batch(octets.data, pieces, now, events)
        except ProtocolError as error:
            self._fail(error, now, events)
        self._note_incomplete(now)
        return events

    def receive_eof(self, now: float, why: str = "the peer ended the transport") -> list[Event]:
        """Take note that the transport has ended; nothing more can be received."""
        return self._end(Input.END, why, now)

    def handle_timeout(self, now: float) -> list[Event]:
        """Do what is due at *now*; harmless when nothing is (RFC 6455 §5.5.2, §7.1.1)."""
        due = self._time.due(self.phase, now)
        events: list[Event] = []
        if due is Due.PING:
            self._time.pinged(now)
            self._append(_PING, KEEPALIVE_PAYLOAD)
        elif due is Due.SLOW_MESSAGE:
            error = ProtocolError(CloseCode.POLICY_VIOLATION, "message not finished in time")
            self._fail(error, now, events)
        elif due is Due.SILENCE:
            events = self._end(Input.TIMEOUT, "the peer did not answer a Ping in time", now)
        elif due is Due.SLOW_CLOSE:
            events = self._end(Input.TIMEOUT, "the closing handshake took too long", now)
        return events

    def next_deadline(self) -> float:
        """Return when `handle_timeout` must be called next, ``inf`` for never.

        Receiving moves it to later: a call that comes too early does nothing.
        """
        return self._time.next_deadline(self.phase)

    def pause(self, now: float) -> None:
        """Note that this side has stopped reading: deadlines for the peer are put off."""
        self._time.pause(now)

    def resume(self, now: float) -> None:
        """Note that this side reads again."""
        self._time.resume(now)

    def note_progress(self, now: float) -> None:
        """Note that the peer takes octets that had to wait: a sign of life, as octets from it."""
        self._time.heard(now)

    def fail(self, error: ProtocolError, now: float) -> list[Event]:
        """Give the connection up because of what the peer has sent (RFC 6455 §7.1.7)."""
        events: list[Event] = []
        self._fail(error, now, events)
        return events

    def begin_parts(self) -> Part | Deflated | None:
        """Let the message under way, or else the next one, come in parts (RFC 6455 §5.4).

        `receive` then gives each of its octets as soon as it has come, in `Part` events, or
        `Deflated` ones that are not whole; the messages behind it are whole again.

        Returns:
            What is held of a message under way: its first part.
        """
        self._gives_parts = True
        if not self._assembly.is_under_way:
            return None
        return self._part(self._opcode, is_last=False)

    def end_parts(self) -> None:
        """Let the next message come whole, after all; no part may have come."""
        self._gives_parts = False

    # What goes out.

    def send(self, opcode: int, payload: bytes | bytearray | memoryview) -> None:
        """Queue a whole data message (RFC 6455 §5.6, §6.1).

        Args:
            opcode: TEXT, then *payload* is UTF-8, or BINARY.
            payload: one-dimensional octets; copied unless they are ``bytes``. Compressed if
                that was agreed on and is worth it.
        """
        assert self.phase is Phase.OPEN
        deflated = None if self._deflater is None else self._deflater.compress(payload)
        if deflated is None:
            self._append(FIN | opcode, payload)
        else:
            self._append(FIN | RSV1 | opcode, deflated)

    def send_prepared(self, message: PreparedMessage) -> None:
        """Queue a whole data message that was made for many connections."""
        assert self.phase is Phase.OPEN
        deflated = None if self._deflater is None else self._deflater.compress(message)
        if deflated is None:
            self._append(FIN | message.opcode, message.payload)
        else:
            self._append(FIN | RSV1 | message.opcode, deflated)

    @property
    def is_sending_parts(self) -> bool:
        """Whether the last part of a message is still to be queued."""
        return self._is_sending_parts

    def send_part(
        self, opcode: int, payload: bytes, *, is_last: bool, compress: bool = True
    ) -> None:
        """Queue a part of a data message, as a frame of its own (RFC 6455 §5.4).

        Until its last part is queued, `send` may not be called.

        Args:
            opcode: the message's; its parts together are UTF-8 if that is TEXT.
            payload: octets; may be empty.
            is_last: whether the message is whole with it.
            compress: whether to compress the message, if that was agreed on; the first part's
                counts.
        """
        assert self.phase is Phase.OPEN
        first_octet = int(Opcode.CONTINUATION)
        if not self._is_sending_parts:
            self._compresses_parts = compress and self._deflater is not None
            first_octet = opcode | RSV1 if self._compresses_parts else opcode
        if self._compresses_parts and self._deflater is not None:
            payload = self._deflater.compress_part(payload, is_last=is_last)
        self._append(first_octet | FIN if is_last else first_octet, payload)
        self._is_sending_parts = not is_last

    def ping(self, payload: bytes) -> None:
        """Queue a Ping of 0..125 octets (RFC 6455 §5.5.2); its answer is a `Ponged` event.

        Raises:
            ValueError: the payload is too long; nothing was queued.
        """
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a ping has at most {MAX_CONTROL_PAYLOAD} octets, not {len(payload)}")
        assert self.phase is Phase.OPEN
        self._append(_PING, payload)

    def close(self, code: int, reason: str, now: float) -> None:
        """Start the closing handshake (RFC 6455 §7.1.2); again, or too late, does nothing.

        Raises:
            ValueError: the code or the reason may not be sent; nothing was queued.
        """
        payload = close_payload(code, reason)
        self._move(Input.LOCAL_CLOSE, now, payload)

    # How it ends.

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will be received or may be sent."""
        return self.phase not in _LISTENING

    @property
    def may_drop(self) -> bool:
        """Whether the transport is this side's to drop once `outbound` is empty (§7.1.1)."""
        return self.phase is Phase.GONE or (self.phase is Phase.CLOSED and self.is_server)

    @property
    def has_partial(self) -> bool:
        """Whether a frame or message has begun and is not whole, so that time counts for it."""
        return self._time.message_since != _NEVER

    @property
    def partial_size(self) -> int:
        """Octets held of a frame or message that is not yet whole."""
        return self._reader.carried + len(self._assembly)

    # Inside.

    def _take_batch(
        self, view: memoryview, pieces: list[Piece], now: float, events: list[Event]
    ) -> None:
        for opcode, flags, start, size, _ in pieces:
            payload = view[start : start + size]
            if opcode >= _CLOSE:
                self._take_control(opcode, bytes(payload), now, events)
            elif flags == _WHOLE and not self._gives_parts:
                events.append(_message(opcode, payload, size))
            elif flags == _WHOLE_DEFLATED and not self._gives_parts:
                events.append(Deflated(bytes(payload), opcode))
            else:
                self._opcode = opcode
                self._is_deflated = bool(flags & kernels.COMPRESSED)
                self._take_piece(payload, events, is_last=bool(flags & kernels.MESSAGE_END))
        self._note_whole()

    def _take_piece(self, payload: memoryview, events: list[Event], *, is_last: bool) -> None:
        self._assembly.add(payload)
        if self._gives_parts:
            events.append(self._part(self._opcode, is_last=is_last))
        elif is_last:
            whole = self._finish_message()
            if self._is_deflated:
                events.append(Deflated(bytes(whole), self._opcode))
            else:
                events.append(_message(self._opcode, whole, len(whole)))

    def _take_control(self, opcode: int, payload: bytes, now: float, events: list[Event]) -> None:
        if opcode == Opcode.PING:
            if self.phase is Phase.OPEN:
                self.outbound.append_pong(self._frame(FIN | Opcode.PONG, payload))
        elif opcode == Opcode.PONG:
            events.append(Ponged(payload))
        else:
            self.outcome = parse_close(payload)
            self._move(Input.PEER_CLOSE, now, payload)
            self._discard_partial()
            events.append(self.outcome)

    def _part(self, opcode: int, *, is_last: bool) -> Part | Deflated:
        kind = Deflated if self._is_deflated else Part
        part = kind(self._assembly.take(), opcode, is_last)
        if is_last:
            self._finish_message()
            self._gives_parts = False
        return part

    def _finish_message(self) -> bytearray:
        self._time.message_since = _NEVER
        return self._assembly.finish()

    def _note_whole(self) -> None:
        # Pieces came and no message is under way: what had begun before them is whole.
        if not self._assembly.is_under_way:
            self._time.message_since = _NEVER

    def _note_incomplete(self, now: float) -> None:
        if self._reader.carried or self._assembly.is_under_way:
            self._time.message_since = min(self._time.message_since, now)

    def _discard_partial(self) -> None:
        self._reader.discard()
        self._assembly.discard()
        self._time.message_since = _NEVER

    def _fail(self, error: ProtocolError, now: float, events: list[Event]) -> None:
        self._discard_partial()
        self.outcome = Failed(error.code, error.reason)
        events.append(self.outcome)
        self._move(Input.FAULT, now, close_payload(error.code, error.reason))

    def _end(self, cause: Input, why: str, now: float) -> list[Event]:
        self._discard_partial()
        was_open = self.phase in _LISTENING
        self._move(cause, now)
        if not was_open:
            return []
        self.outcome = Lost(why)
        return [self.outcome]

    def _move(self, cause: Input, now: float, payload: bytes = b"") -> None:
        transition = TRANSITIONS[self.phase][cause]
        if self.phase is Phase.OPEN:
            self._time.close_since = now
            self._end_sending(transition.phase)
        self.phase = transition.phase
        if transition.sends_close:
            self.outbound.append_close(self._frame(FIN | Opcode.CLOSE, payload))

    def _end_sending(self, phase: Phase) -> None:
        if self._deflater is not None and phase is not Phase.OPEN:
            self._deflater.discard()

    def _append(self, first_octet: int, payload: bytes | bytearray | memoryview) -> None:
        self.outbound.append(self._frame(first_octet, payload))

    @abstractmethod
    def _frame(
        self, first_octet: int, payload: bytes | bytearray | memoryview
    ) -> bytes | bytearray:
        """Build a frame around *payload*, masked if this role masks (RFC 6455 §5.2)."""


# Plain names and integers for the path of every message: an IntEnum compares in Python.
_TEXT, _CLOSE, _WHOLE = int(Opcode.TEXT), int(Opcode.CLOSE), kernels.WHOLE
_WHOLE_DEFLATED = kernels.WHOLE | kernels.COMPRESSED
_LISTENING = (Phase.OPEN, Phase.CLOSING)
_NEVER = float("inf")
_PING = FIN | int(Opcode.PING)


def parse_close(payload: bytes) -> Closed:
    """Read the payload of a Close frame that has been validated (RFC 6455 §7.1.5)."""
    if not payload:
        return Closed(CloseCode.NO_STATUS, "")
    return Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())


def _message(opcode: int, payload: memoryview | bytearray, size: int) -> Message:
    if opcode == _TEXT:
        return Message(str(payload, "utf-8"), size)
    return Message(bytes(payload), size)

"""Inflating what a peer has compressed, within bounds (RFC 7692 §7.2.2).

**Bounds.** An inflater is never asked for more than may still come of its message, so that
a bomb costs no more than the largest message: memory is taken as octets come out of it. Input
goes in slices, since zlib copies what it leaves over. A message may have final blocks
(§7.2.1), each of which costs a new inflater, but only so many.

**Whole streams.** Of a message that stands alone the end is checked: where the stream could
not end there, it was cut, or something that is no block follows. Of one that hands on its
context it is not, since the check would end the context too.
"""

from typing import Any, Final, NoReturn

from triows import _kernels as kernels
from triows._engine._contexts import DEFLATE_ERROR, FINAL, TAIL, make_inflater
from triows._engine._events import Deflated, Message
from triows._errors import ProtocolError
from triows._kernels import ENDINGS
from triows._spec import Opcode

SLICE: Final = 65_536
"""Octets that are given to zlib at a time."""

MOST_FINAL_BLOCKS: Final = 64
"""Of one message."""

_MOST_PIECES: Final = 64

_END: Final = TAIL + FINAL
"""What a message that stands alone is given to end with."""


class InflateError(ProtocolError):
    """A compressed message is not what it should be.

    Args:
        fault: its code among the kernels' endings.
    """

    def __init__(self, fault: int) -> None:
        super().__init__(*ENDINGS[fault])
        self.fault = fault


class Inflater:
    """What one peer's messages are inflated with, one after the other.

    Args:
        bits: the window that the peer keeps to is of 2**bits octets; 8..15.
        takes_over: whether a message may refer back to those before it: then all must be
            inflated, and in order.
        most: octets that a message may have.

    Attributes:
        has_more: whether there may be more of the octets that were fed last.
    """

    __slots__ = (
        "_at",
        "_bits",
        "_context",
        "_ending",
        "_final_blocks",
        "_given",
        "_input",
        "_is_last",
        "_most",
        "_window",
        "has_more",
        "takes_over",
    )

    def __init__(self, bits: int, *, takes_over: bool, most: int) -> None:
        self.takes_over = takes_over
        self._bits = bits
        self._most = most
        self._ending = TAIL if takes_over else _END
        self._context: Any = None
        self.discard()

    def message(self, deflated: Deflated) -> Message:
        """Inflate a whole message, and validate its text (RFC 6455 §8.1); errors as `inflate`."""
        octets = self.inflate(deflated.octets)
        payload = _decoded(octets) if deflated.opcode == _TEXT else octets
        return Message(payload, len(octets))

    def octets(self, deflated: Deflated) -> bytes:
        """Do the same, and return the message's octets."""
        octets = self.inflate(deflated.octets)
        if deflated.opcode == _TEXT:
            _decoded(octets)
        return octets

    def inflate(self, octets: bytes) -> bytes:
        """Inflate a whole message.

        Raises:
            InflateError: it is too large, or nothing that deflate makes. No other message
                can be inflated then.
        """
        self.feed(octets, is_last=True)
        return self.take(self._most + 1)

    def feed(self, octets: bytes, *, is_last: bool) -> None:
        """Take the next octets of a message, whose earlier ones have no more in them."""
        if self._context is None:
            self._context = make_inflater(self._bits)
        self._is_last = is_last
        self._input = octets + self._ending if is_last else octets
        self._at = 0
        self.has_more = True

    def take(self, most: int) -> bytes:
        """Return the next octets of the message under way.

        Args:
            most: how many at the most, 1 or more.

        Returns:
            0..most octets; fewer than *most* only where there are no more of what was fed.

        Raises:
            InflateError: as `inflate`.
        """
        pieces: list[bytes] = []
        room = min(most, self._most + 1 - self._given)
        try:
            while room and self.has_more:
                pieces.append(self._advance(room))
                room -= len(pieces[-1])
                self._given += len(pieces[-1])
            if self._given > self._most:
                self._refuse(kernels.MESSAGE_TOO_BIG)
            if self._is_last and not self.has_more:
                self._finish()
        except InflateError:
            pieces.clear()  # else whoever keeps the exception, with its traceback, keeps them
            raise
        return b"".join(pieces)

    def discard(self) -> None:
        """Forget the message under way, and every context."""
        self._context = None
        self._input = b""
        self._window: _Window | None = None
        self._at = self._given = self._final_blocks = 0
        self._is_last = self.has_more = False

    def _advance(self, room: int) -> bytes:
        context = self._context
        piece = self._input[self._at : self._at + SLICE]
        try:
            octets: bytes = context.decompress(piece, room)
        except DEFLATE_ERROR:
            self._refuse(kernels.INVALID_DEFLATE)
        if self._window is None:
            self._window = _Window(1 << self._bits)
        self._window.note(octets)
        if context.eof:
            self._at += len(piece) - len(context.unused_data)
            self.has_more = self._at < len(self._input)
            self._begin_behind_final_block()
        else:
            self._at += len(piece) - len(context.unconsumed_tail)
            self.has_more = self._at < len(self._input) or len(octets) == room
        return octets

    def _begin_behind_final_block(self) -> None:
        """Go on behind the end of a stream, which is not that of the window (RFC 7692 §7.2.1)."""
        if self._is_last and not (self.has_more or self.takes_over):
            self._context = None  # it was FINAL, or would do as well
            return
        self._final_blocks += 1
        if self._final_blocks > MOST_FINAL_BLOCKS:
            self._refuse(kernels.INVALID_DEFLATE)
        assert self._window is not None  # it was told what this stream gave
        self._context = make_inflater(self._bits, self._window.octets())

    def _finish(self) -> None:
        """Be ready for the next message."""
        if self.takes_over:
            self._input = b""
            self._given = self._final_blocks = 0
        elif self._context is None:
            self.discard()
        else:
            self._refuse(kernels.INVALID_DEFLATE)

    def _refuse(self, fault: int) -> NoReturn:
        self.discard()
        raise InflateError(fault)


class _Window:
    """The last octets that an inflater has given, for the inflater that follows it.

    Args:
        size: how many are wanted.
    """

    __slots__ = ("_held", "_pieces", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._pieces: list[bytes] = []
        self._held = 0

    def note(self, octets: bytes) -> None:
        """Take the next ones; what is held of them stays under 5/4 of what is wanted."""
        if len(octets) >= self._size:
            self._pieces = [octets[-self._size :]]
            self._held = self._size
            return
        self._pieces.append(octets)
        self._held += len(octets)
        if self._held > self._size + self._size // 4 or len(self._pieces) > _MOST_PIECES:
            self._pieces = [self.octets()]
            self._held = len(self._pieces[0])

    def octets(self) -> bytes:
        """Return them."""
        return b"".join(self._pieces)[-self._size :]


def _decoded(octets: bytes) -> str:
    try:
        return str(octets, "utf-8")
    except UnicodeDecodeError:
        raise InflateError(kernels.INVALID_UTF8) from None


_TEXT: Final = int(Opcode.TEXT)

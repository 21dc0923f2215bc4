"""A message that is made once, however many connections it goes to.

Knows no connection: what depends on one, a client's mask above all, is left to its engine.
Compressed forms are kept by what they were made with, for as long as the message is.
"""

from triows._engine._contexts import Recipe, compress_alone
from triows._engine._frames import FIN, RSV1, server_header
from triows._spec import Opcode

_TEXT, _BINARY = int(Opcode.TEXT), int(Opcode.BINARY)
_OCTETS = (bytes, bytearray, memoryview)


class PreparedMessage:
    """A message to be sent to many, by ``send`` in all its forms: encoded and framed once.

    Args:
        message: ``str`` is sent as text, octets as binary; copied if it can change.
        compress: over connections that agreed to it (RFC 7692). None: where no context is
            taken over, so that the compressed message too is made once for all that compress
            in the same way; if it is long enough, see `Deflate`, and shrinks. True: on all of
            them, anew for each that takes over a context. False: on none.

    Raises:
        TypeError: *message* is neither text nor octets.
        UnicodeEncodeError: it holds a lone surrogate.

    Never changes, and may be shared by threads: that two of them make the same form of it at
    once does no harm. Its octets are held twice once a server's frame was asked for: as
    payload, and in the frame; so are those of each compressed form.

    Attributes:
        opcode: 1 for text, 2 for binary.
        payload: the octets, those of text in UTF-8.
        compress: as given.
    """

    __slots__ = (
        "__weakref__",
        "_compressed",
        "_compressed_frames",
        "_frame",
        "compress",
        "opcode",
        "payload",
    )

    def __init__(
        self, message: str | bytes | bytearray | memoryview, *, compress: bool | None = None
    ) -> None:
        self.compress = compress
        self._frame = b""
        self._compressed: dict[Recipe, bytes | None] | None = None
        self._compressed_frames: dict[Recipe, bytes] | None = None
        if isinstance(message, str):
            self.opcode = _TEXT
            self.payload = message.encode()
        elif isinstance(message, _OCTETS):
            self.opcode = _BINARY
            self.payload = bytes(message)
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")

    def __len__(self) -> int:
        """Return the octets of the payload."""
        return len(self.payload)

    def __repr__(self) -> str:
        kind = "text" if self.opcode == Opcode.TEXT else "binary"
        return f"<triows.PreparedMessage, {kind}, {len(self)} octets>"

    @property
    def frame(self) -> bytes:
        """The whole message as a server sends it: one frame, unmasked (RFC 6455 §5.2)."""
        if not self._frame:
            self._frame = server_header(FIN | self.opcode, len(self.payload)) + self.payload
        return self._frame

    def compressed(self, recipe: Recipe) -> bytes | None:
        """Return the payload compressed by itself; None if that makes it no smaller.

        Unless `compress` is True: then it is compressed whatever comes of it.
        """
        known = self._compressed
        if known is None:
            known = self._compressed = {}
        if recipe not in known:
            octets = compress_alone(recipe, self.payload)
            is_smaller = len(octets) < len(self.payload)
            known[recipe] = octets if is_smaller or self.compress else None
        return known[recipe]

    def compressed_frame(self, recipe: Recipe) -> bytes | None:
        """Return the whole message as a server sends it, compressed; None as for `compressed`."""
        payload = self.compressed(recipe)
        if payload is None:
            return None
        known = self._compressed_frames
        if known is None:
            known = self._compressed_frames = {}
        if recipe not in known:
            known[recipe] = server_header(FIN | RSV1 | self.opcode, len(payload)) + payload
        return known[recipe]

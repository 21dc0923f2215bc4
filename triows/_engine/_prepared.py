"""A message that is made once, however many connections it goes to.

Knows no connection: what depends on one, a client's mask above all, is left to its engine.
Compressed forms are kept by what they were made with, for as long as the message is.
"""

from functools import cached_property

from triows._engine._contexts import Recipe, compress_alone
from triows._engine._frames import FIN, RSV1, server_header
from triows._spec import Opcode


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

    Never changes, and may be shared by threads. Its octets are held twice once a server's
    frame was asked for: as payload, and in the frame; so are those of each compressed form.

    Attributes:
        opcode: 1 for text, 2 for binary.
        payload: the octets, those of text in UTF-8.
        compress: as given.
    """

    def __init__(
        self, message: str | bytes | bytearray | memoryview, *, compress: bool | None = None
    ) -> None:
        self.compress = compress
        self._compressed: dict[Recipe, bytes | None] = {}
        self._compressed_frames: dict[Recipe, bytes] = {}
        if isinstance(message, str):
            self.opcode = int(Opcode.TEXT)
            self.payload = message.encode()
        elif isinstance(message, bytes | bytearray | memoryview):
            self.opcode = int(Opcode.BINARY)
            self.payload = bytes(message)
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")

    def __len__(self) -> int:
        """Return the octets of the payload."""
        return len(self.payload)

    def __repr__(self) -> str:
        kind = "text" if self.opcode == Opcode.TEXT else "binary"
        return f"<triows.PreparedMessage, {kind}, {len(self)} octets>"

    @cached_property
    def frame(self) -> bytes:
        """The whole message as a server sends it: one frame, unmasked (RFC 6455 §5.2)."""
        return server_header(FIN | self.opcode, len(self.payload)) + self.payload

    def compressed(self, recipe: Recipe) -> bytes | None:
        """Return the payload compressed by itself; None if that makes it no smaller.

        Unless `compress` is True: then it is compressed whatever comes of it.
        """
        if recipe not in self._compressed:  # two threads may both find that; no harm is done
            octets = compress_alone(recipe, self.payload)
            is_smaller = len(octets) < len(self.payload)
            self._compressed[recipe] = octets if is_smaller or self.compress else None
        return self._compressed[recipe]

    def compressed_frame(self, recipe: Recipe) -> bytes | None:
        """Return the whole message as a server sends it, compressed; None as for `compressed`."""
        payload = self.compressed(recipe)
        if payload is None:
            return None
        if recipe not in self._compressed_frames:
            header = server_header(FIN | RSV1 | self.opcode, len(payload))
            self._compressed_frames[recipe] = header + payload
        return self._compressed_frames[recipe]

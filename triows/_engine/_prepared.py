"""A message that is made once, however many connections it goes to.

Knows no connection: what depends on one, a client's mask above all, is left to its engine.
"""

from functools import cached_property

from triows._engine._frames import FIN, server_header
from triows._spec import Opcode


class PreparedMessage:
    """A message to be sent to many, by ``send`` in all its forms: encoded and framed once.

    Args:
        message: ``str`` is sent as text, octets as binary; copied if it can change.

    Raises:
        TypeError: *message* is neither text nor octets.
        UnicodeEncodeError: it holds a lone surrogate.

    Never changes, and may be shared by threads. Its octets are held twice once a server's
    frame was asked for: as payload, and in the frame.

    Attributes:
        opcode: 1 for text, 2 for binary.
        payload: the octets, those of text in UTF-8.
    """

    def __init__(self, message: str | bytes | bytearray | memoryview) -> None:
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

"""The two ends of a connection: what differs is who masks, and who drops TCP first."""

import os

from triows._engine._closing import Phase
from triows._engine._embedded import EmbeddedEngine
from triows._engine._frames import masked_frame, server_header
from triows._engine._octets import Octets
from triows._engine._prepared import PreparedMessage
from triows._kernels import mask

_JOIN = 16_384
"""Octets up to which copying a payload behind its header is cheaper than a second chunk."""


class ServerEngine(EmbeddedEngine):
    """The server's end: its peer masks, it does not (RFC 6455 §5.1)."""

    is_server = True

    def send_prepared(self, message: PreparedMessage) -> None:
        """See `Engine.send_prepared`; the frame is shared with other connections."""
        assert self.phase is Phase.OPEN
        deflater = self._deflater
        self.outbound.append(message.frame if deflater is None else deflater.frame(message))

    def _append(self, first_octet: int, payload: bytes | bytearray | memoryview) -> None:
        if len(payload) <= _JOIN:
            self.outbound.append(self._frame(first_octet, payload))
        else:
            self.outbound.append(server_header(first_octet, len(payload)))
            self.outbound.append(bytes(payload))

    def _frame(self, first_octet: int, payload: bytes | bytearray | memoryview) -> bytes:
        return b"".join((server_header(first_octet, len(payload)), payload))

    def _mask_in_place(self, payload: Octets) -> int:  # noqa: ARG002 - a server masks nothing
        return -1


class ClientEngine(EmbeddedEngine):
    """The client's end: it masks each frame with a fresh key, its peer does not (§5.1, §5.3).

    Keys come from the operating system's generator: no one can predict them, and
    processes that share an ancestor do not share them.
    """

    is_server = False

    def _frame(self, first_octet: int, payload: bytes | bytearray | memoryview) -> bytearray:
        return masked_frame(first_octet, payload, _fresh_key())

    def _mask_in_place(self, payload: Octets) -> int:
        key = _fresh_key()
        mask(payload, 0, len(payload), key, 0)
        return key


def _fresh_key() -> int:
    return int.from_bytes(os.urandom(4), "little")

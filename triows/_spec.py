"""What RFC 6455 fixes: opcodes, close codes and sizes.

The bottom layer: it imports nothing of triows, and everything may import it.
Kernels read these as plain integers, which numba freezes as constants.
"""

import enum
from typing import Final


class Opcode(enum.IntEnum):
    """The kinds of frame (RFC 6455 §5.2, §11.8)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """The registered reasons for which a connection ends (RFC 6455 §7.4.1)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


NEVER_SENT: Final = frozenset(
    {CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.TLS_HANDSHAKE, 1004}
)
"""Codes that only ever describe a connection, and never travel in a frame (§7.4.1)."""


def is_sendable(code: int) -> bool:
    """Whether *code* may stand in a Close frame (RFC 6455 §7.4)."""
    return (1000 <= code <= 1014 and code not in NEVER_SENT) or 3000 <= code <= 4999


MAX_CONTROL_PAYLOAD: Final = 125
"""Octets that a control frame's payload may have (§5.5)."""

MAX_REASON: Final = MAX_CONTROL_PAYLOAD - 2
"""Octets that a close reason may have, in UTF-8 (§5.5.1)."""

MAX_HEADER: Final = 14
"""Octets of the longest frame header: 2, an extended length of 8, a mask of 4 (§5.2)."""

ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What is appended to the client's key before hashing (§4.2.2)."""

VERSION: Final = "13"
"""The protocol's version in Sec-WebSocket-Version (§4.1)."""

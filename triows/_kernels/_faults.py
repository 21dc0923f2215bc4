"""What a kernel can find wrong with the peer's octets, as negative integers.

A kernel returns one of these codes instead of raising; the engine turns it
into a `ProtocolError` with the close code and reason below (RFC 6455 §7.4.1).
"""

from typing import Final

from triows._spec import CloseCode

RESERVED_OPCODE: Final = -1
LONG_CONTROL: Final = -2
FRAGMENTED_CONTROL: Final = -3
LENGTH_NOT_MINIMAL: Final = -4
LENGTH_TOP_BIT: Final = -5
UNEXPECTED_RSV: Final = -6
NOT_MASKED: Final = -7
MASKED: Final = -8
STRAY_CONTINUATION: Final = -9
MESSAGE_INSIDE_MESSAGE: Final = -10
MESSAGE_TOO_BIG: Final = -11
TOO_MANY_FRAGMENTS: Final = -12
INVALID_UTF8: Final = -13
SHORT_CLOSE: Final = -14
BAD_CLOSE_CODE: Final = -15
INVALID_UTF8_REASON: Final = -16

FAULTS: Final[dict[int, tuple[CloseCode, str]]] = {
    RESERVED_OPCODE: (CloseCode.PROTOCOL_ERROR, "reserved opcode"),
    LONG_CONTROL: (CloseCode.PROTOCOL_ERROR, "control frame over 125 octets"),
    FRAGMENTED_CONTROL: (CloseCode.PROTOCOL_ERROR, "fragmented control frame"),
    LENGTH_NOT_MINIMAL: (CloseCode.PROTOCOL_ERROR, "payload length not minimal"),
    LENGTH_TOP_BIT: (CloseCode.PROTOCOL_ERROR, "payload length with its top bit set"),
    UNEXPECTED_RSV: (CloseCode.PROTOCOL_ERROR, "reserved bit set"),
    NOT_MASKED: (CloseCode.PROTOCOL_ERROR, "client frame not masked"),
    MASKED: (CloseCode.PROTOCOL_ERROR, "server frame masked"),
    STRAY_CONTINUATION: (CloseCode.PROTOCOL_ERROR, "continuation of no message"),
    MESSAGE_INSIDE_MESSAGE: (CloseCode.PROTOCOL_ERROR, "new message inside a message"),
    MESSAGE_TOO_BIG: (CloseCode.MESSAGE_TOO_BIG, "message too big"),
    TOO_MANY_FRAGMENTS: (CloseCode.MESSAGE_TOO_BIG, "message in too many fragments"),
    INVALID_UTF8: (CloseCode.INVALID_PAYLOAD, "text not UTF-8"),
    SHORT_CLOSE: (CloseCode.PROTOCOL_ERROR, "close payload of one octet"),
    BAD_CLOSE_CODE: (CloseCode.PROTOCOL_ERROR, "close code that may not be sent"),
    INVALID_UTF8_REASON: (CloseCode.INVALID_PAYLOAD, "close reason not UTF-8"),
}
"""Fault code to the close code and reason with which the connection fails."""

# What ends a connection without the peer's having broken a rule of framing.
HANDLER_FAILED: Final = -17
SLOW_MESSAGE: Final = -18
TOO_MUCH_INCOMPLETE: Final = -19
GOING_AWAY: Final = -20
HANDLER_CLOSED: Final = -21
SLOW_PEER: Final = -22
INVALID_DEFLATE: Final = -23

ENDINGS: Final[dict[int, tuple[CloseCode, str]]] = FAULTS | {
    HANDLER_FAILED: (CloseCode.INTERNAL_ERROR, "the handler failed"),
    SLOW_MESSAGE: (CloseCode.POLICY_VIOLATION, "message not finished in time"),
    TOO_MUCH_INCOMPLETE: (CloseCode.TRY_AGAIN_LATER, "too many unfinished messages"),
    GOING_AWAY: (CloseCode.GOING_AWAY, "the server is going away"),
    HANDLER_CLOSED: (CloseCode.NORMAL, ""),
    SLOW_PEER: (CloseCode.TRY_AGAIN_LATER, "the peer does not take what it is sent"),
    INVALID_DEFLATE: (CloseCode.INVALID_PAYLOAD, "message not deflated as agreed"),
}
"""Ending code to the close code and reason that the compiled turn tells the peer."""

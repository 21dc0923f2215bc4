"""How a connection ends: the closing handshake as a table (RFC 6455 §7).

Five phases, five inputs, and for each pair what follows. The diagram in
docs/explanation/closing.md is generated from `TRANSITIONS`. What travels in the
Close frames and who drops TCP is the engine's business; the order of things is
settled here.
"""

import enum
from typing import NamedTuple


class Phase(enum.Enum):
    """Where a connection stands between its opening and its end."""

    OPEN = "open"
    """Messages flow both ways."""
    CLOSING = "closing"
    """A Close was sent; the peer's is awaited."""
    CLOSED = "closed"
    """A Close went each way: the server drops TCP, the client waits for that (§7.1.1)."""
    FAILED = "failed"
    """A Close with an error code was sent; the peer is given time to drop TCP (§7.1.7)."""
    GONE = "gone"
    """Nothing more will be read or written: TCP is to be dropped, or was lost."""


class Input(enum.Enum):
    """What moves a connection from one phase to another."""

    LOCAL_CLOSE = "close() is called"
    PEER_CLOSE = "the peer's Close arrives"
    FAULT = "the peer breaks the protocol or a limit"
    END = "the transport ends"
    TIMEOUT = "a deadline passes"


class Transition(NamedTuple):
    """What an input leads to."""

    phase: Phase
    sends_close: bool = False


_ENDS = {Input.END: Transition(Phase.GONE), Input.TIMEOUT: Transition(Phase.GONE)}

TRANSITIONS: dict[Phase, dict[Input, Transition]] = {
    Phase.OPEN: {
        Input.LOCAL_CLOSE: Transition(Phase.CLOSING, sends_close=True),
        Input.PEER_CLOSE: Transition(Phase.CLOSED, sends_close=True),
        Input.FAULT: Transition(Phase.FAILED, sends_close=True),
        **_ENDS,
    },
    Phase.CLOSING: {
        Input.LOCAL_CLOSE: Transition(Phase.CLOSING),
        Input.PEER_CLOSE: Transition(Phase.CLOSED),
        Input.FAULT: Transition(Phase.FAILED),
        **_ENDS,
    },
    Phase.CLOSED: {
        Input.LOCAL_CLOSE: Transition(Phase.CLOSED),
        Input.PEER_CLOSE: Transition(Phase.CLOSED),
        Input.FAULT: Transition(Phase.CLOSED),
        **_ENDS,
    },
    Phase.FAILED: {
        Input.LOCAL_CLOSE: Transition(Phase.FAILED),
        Input.PEER_CLOSE: Transition(Phase.FAILED),
        Input.FAULT: Transition(Phase.FAILED),
        **_ENDS,
    },
    Phase.GONE: dict.fromkeys(Input, Transition(Phase.GONE)),
}
"""Total: every phase says what becomes of every input."""

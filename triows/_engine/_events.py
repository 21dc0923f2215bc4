"""What an engine tells its driver: the events that received octets amount to."""

from typing import NamedTuple


class Message(NamedTuple):
    """A whole data message (RFC 6455 §5.6); text has been validated."""

    payload: str | bytes
    size: int
    """Octets of the payload on the wire; of text, in UTF-8."""


class Part(NamedTuple):
    """A part of a data message that was asked for in parts (RFC 6455 §5.4)."""

    payload: bytes
    """Octets; those of text may begin and end within a character."""
    opcode: int
    """The message's."""
    is_last: bool
    """Whether the message is whole with it."""

    @property
    def size(self) -> int:
        """Octets of the payload."""
        return len(self.payload)


class Deflated(NamedTuple):
    """A compressed message, or a part of one, as it came: to be inflated by who takes it."""

    octets: bytes
    opcode: int
    """The message's."""
    is_last: bool = True
    """Whether the message is whole with it."""

    @property
    def size(self) -> int:
        """Octets as they came."""
        return len(self.octets)


class Ponged(NamedTuple):
    """A Pong arrived, asked for or not (RFC 6455 §5.5.3)."""

    payload: bytes


class Closed(NamedTuple):
    """The peer's Close frame arrived (RFC 6455 §5.5.1, §7.1.5)."""

    code: int
    """The peer's close code; 1005 where it gave none."""
    reason: str


class Failed(NamedTuple):
    """This side gave the connection up because of what the peer did (RFC 6455 §7.1.7)."""

    code: int
    """The close code that the peer is told."""
    reason: str


class Lost(NamedTuple):
    """The transport ended, or fell silent, without a closing handshake: code 1006."""

    reason: str


Event = Message | Part | Deflated | Ponged | Closed | Failed | Lost
"""Pings need no event: the engine answers them."""

"""Settings: frozen values with safe defaults, in octets and seconds."""

import math
from collections.abc import Callable
from typing import Any

import attrs
from attrs.validators import ge, gt


def _within(least: int, most: int) -> Callable[[object, "attrs.Attribute[int]", int], None]:
    """Make a validator of whole numbers."""

    def check(_: object, attribute: "attrs.Attribute[int]", value: int) -> None:
        if value not in range(least, most + 1):
            raise ValueError(f"{attribute.name!r} must be in {least}..{most}: {value!r}")

    return check


@attrs.frozen(kw_only=True)
class Limits:
    """What a peer may make this side hold or wait for; every limit is on by default.

    Sizes are in octets, times in seconds (``math.inf`` for no deadline).
    """

    max_message: int = attrs.field(default=2**20, validator=ge(0))
    """Octets of one message, its fragments added up; one more closes with 1009."""

    max_fragments: int = attrs.field(default=65_536, validator=ge(1))
    """Frames that one message may arrive in; one more closes with 1009."""

    max_request_line: int = attrs.field(default=8_192, validator=ge(64))
    """Octets of an HTTP request line (414) or status line."""

    max_header: int = attrs.field(default=16_384, validator=ge(256))
    """Octets of an HTTP head's header fields together (431)."""

    max_header_fields: int = attrs.field(default=128, validator=ge(8))
    """Header fields in an HTTP head (431)."""

    max_body: int = attrs.field(default=65_536, validator=ge(0))
    """Octets of a refusal's body that a client keeps."""

    max_incomplete: int = attrs.field(default=2**28, validator=ge(0))
    """Octets of unfinished messages that a server holds over all its connections;
    the connection that would exceed it closes with 1013."""

    receive_queue_messages: int = attrs.field(default=256, validator=ge(1))
    """Unread messages at which a connection stops reading from its peer."""

    receive_queue_octets: int = attrs.field(default=2**20, validator=ge(1))
    """Octets of unread messages at which a connection stops reading from its peer."""

    send_queue_octets: int = attrs.field(default=2**16, validator=ge(1))
    """Octets not yet taken by the transport at which ``send`` waits (the high-water mark)."""

    max_unsent: int = attrs.field(default=2**24, validator=ge(1))
    """Octets not yet taken by the peer over which a callback's or a `Sender`'s next message
    to it ends the connection instead: one that cannot keep up (1013, told to no one but
    ``on_close``, since a peer that does not read hears nothing)."""

    sender_octets: int = attrs.field(default=2**22, validator=ge(1))
    """Octets that a reactor's loop has not taken from its senders yet at which they wait."""

    max_connections: int = attrs.field(default=65_536, validator=ge(1))
    """Connections that a server holds at once; further ones are answered with 503."""

    handshake_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """Seconds from accept or connect to 101, TLS included."""

    message_timeout: float = attrs.field(default=60.0, validator=gt(0))
    """Seconds from a message's first octet to its last; later closes with 1008."""

    close_timeout: float = attrs.field(default=10.0, validator=gt(0))
    """Seconds that a closing handshake may take before TCP is dropped."""


@attrs.frozen(kw_only=True)
class KeepAlive:
    """When to ping a quiet peer, in seconds; ``inf`` for never."""

    interval: float = attrs.field(default=20.0, validator=gt(0))
    """Silence from the peer after which it is sent a Ping."""

    timeout: float = attrs.field(default=10.0, validator=gt(0))
    """Further silence after which it counts as gone."""


@attrs.frozen(kw_only=True)
class Deflate:
    """How messages are compressed, where the peer agrees to it (RFC 7692).

    The parameters of the two directions are upper bounds: a peer may ask for less, and one
    that will not keep to them gets no compression. The defaults take over no context from one
    message to the next, so that an idle connection holds no compressor and no inflater; what
    taking over costs is in `docs/explanation/deflate.md`.
    """

    level: int = attrs.field(default=3, validator=_within(1, 9))
    """How hard to compress, 1..9, as zlib counts."""

    memory_level: int = attrs.field(default=8, validator=_within(1, 9))
    """How much memory a compressor may take, 1..9, as zlib counts."""

    server_context_takeover: bool = False
    """Whether what the server sends may refer back to earlier messages (§7.1.1.1)."""

    client_context_takeover: bool = False
    """Whether what the client sends may (§7.1.1.2)."""

    server_max_window_bits: int = attrs.field(default=15, validator=_within(8, 15))
    """How far back what the server sends may refer: 2**8 to 2**15 octets (§7.1.2.1)."""

    client_max_window_bits: int = attrs.field(default=15, validator=_within(8, 15))
    """How far back what the client sends may refer (§7.1.2.2)."""

    threshold: int = attrs.field(default=256, validator=ge(0))
    """Octets below which a message goes uncompressed, if nothing else is said for it.

    So does one that would not shrink, where no context is taken over. 0 compresses every
    message, whatever comes of it.
    """


NO_KEEPALIVE = KeepAlive(interval=math.inf, timeout=math.inf)
"""Never ping, never drop a quiet peer."""


def check_kind(name: str, value: object, *kinds: Any) -> None:
    """Let a setting pass that is of one of *kinds*: classes, or None for itself.

    Raises:
        TypeError: it is of none; the message names it.
    """
    if not any(value is None if kind is None else isinstance(value, kind) for kind in kinds):
        wanted = " or ".join("None" if kind is None else kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be {wanted}, not {ascii(value)[:80]}")


def check_settings(limits: Limits, keepalive: KeepAlive, deflate: Deflate | None) -> None:
    """Let the settings of connections pass; TypeError as `check_kind`."""
    check_kind("limits", limits, Limits)
    check_kind("keepalive", keepalive, KeepAlive)
    check_kind("deflate", deflate, Deflate, None)

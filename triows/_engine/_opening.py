"""What both sides of the opening handshake share: its key, its own fields, its subprotocols.

Refuses to know who is asking whom. RFC 6455 §4.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence

import attrs

from triows import _spec
from triows._engine._head import Fields
from triows._engine._headers import Headers, is_token

_RESERVED = frozenset({"upgrade", "connection", "content-length", "transfer-encoding"})
_RESERVED_PREFIX = "sec-websocket-"

# Sixteen octets in base64 (RFC 6455 §4.1, item 7). Pad bits that are not zero are let through,
# as RFC 4648 §3.5 allows: clients that make the key up from random letters exist.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


@attrs.frozen
class Accept:
    """Accept a WebSocket with a subprotocol and header fields of the application's choice.

    Args:
        subprotocol: one of those that the client offers; None lets the server's order of
            preference decide.
        headers: further fields of the 101, as `Headers` takes them.

    Raises:
        ValueError: a header cannot be sent, or is one of the handshake's own.
    """

    subprotocol: str | None = None
    headers: Headers = attrs.field(factory=Headers, converter=Headers)

    @headers.validator
    def _refuse_reserved(self, _attribute: object, headers: Headers) -> None:
        refuse_reserved(headers)


def refuse_reserved(headers: Headers) -> None:
    """Raise ValueError if *headers* has a field that the handshake itself sets."""
    for name in headers:
        lowered = name.lower()
        if lowered in _RESERVED or lowered.startswith(_RESERVED_PREFIX):
            raise ValueError(f"{name} is for the opening handshake to set")


def check_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    """Give *subprotocols* as a tuple; ValueError unless they are tokens without repeats."""
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols is a sequence of names, not one name")
    for name in subprotocols:
        if not is_token(name):
            raise ValueError(f"subprotocol is not a token: {name[:80]!a}")
    if len(set(subprotocols)) != len(subprotocols):
        raise ValueError("a subprotocol is named twice")
    return tuple(subprotocols)


def is_key(value: bytes) -> bool:
    """Whether *value* is sixteen octets in base64."""
    return _KEY.fullmatch(value) is not None


def accept_for(key: bytes) -> bytes:
    """Compute the Sec-WebSocket-Accept that answers *key*, both in base64."""
    digest = hashlib.sha1(key + _spec.ACCEPT_GUID, usedforsecurity=False).digest()
    return b64encode(digest)


def lowered_members(fields: Fields, name: bytes) -> list[bytes]:
    """Split a repeatable field, whose members have no case, at its commas (RFC 9110 §5.6.1)."""
    if name not in fields:
        return []
    return [member.strip(b" \t") for member in b",".join(fields[name]).lower().split(b",")]


def has_body(fields: Fields) -> bool:
    """Whether a head announces a body, which no opening handshake has."""
    return b"transfer-encoding" in fields or fields.get(b"content-length", [b"0"]) != [b"0"]

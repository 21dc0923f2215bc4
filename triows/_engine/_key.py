"""The opening handshake's key, and the proof that a server has read it (RFC 6455 §4.2.2)."""

import hashlib
import re
from base64 import b64encode

from triows import _spec

# Sixteen octets in base64 (RFC 6455 §4.1, item 7). Pad bits that are not zero are let through,
# as RFC 4648 §3.5 allows: clients that make the key up from random letters exist.
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


def is_key(value: bytes) -> bool:
    """Whether *value* is sixteen octets in base64."""
    return _KEY.fullmatch(value) is not None


def accept_for(key: bytes) -> bytes:
    """Compute the Sec-WebSocket-Accept that answers *key*, both in base64."""
    digest = hashlib.sha1(key + _spec.ACCEPT_GUID, usedforsecurity=False).digest()
    return b64encode(digest)

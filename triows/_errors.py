"""What can go wrong below Trio: one exception class per cause.

The engine raises these, so this module may not import Trio; what a channel
raises (`triows.ConnectionBroken`) inherits from Trio's exceptions and lives
beside the channel.
"""

from collections.abc import Sequence


class TriowsError(Exception):
    """The common ancestor of every error that triows itself defines."""


class ProtocolError(TriowsError):
    """The peer broke RFC 6455; *code* is the close code that the RFC names for it.

    Args:
        code: the close code with which the connection fails (RFC 6455 §7.4.1).
        reason: what was wrong, in at most 123 octets of ASCII, fit for a Close frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} (close code {code})")
        self.code = code
        self.reason = reason


class HandshakeError(TriowsError):
    """The opening handshake did not lead to a WebSocket (RFC 6455 §4)."""


class InvalidHandshake(HandshakeError):  # noqa: N818 - the name that users of other libraries know
    """The server's answer was no valid opening handshake (RFC 6455 §4.1); no frame was sent."""


class HandshakeRejected(HandshakeError):  # noqa: N818 - a refusal is an answer, not a fault
    """The server answered the opening handshake with something other than 101.

    Args:
        status: the HTTP status, 100..999.
        headers: the answer's header fields, in order, as (name, value).
        body: the first octets of its body, capped.
    """

    def __init__(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        super().__init__(f"the server refused the opening handshake with status {status}")
        self.status = status
        self.headers = headers
        self.body = body


class RedirectRefused(HandshakeRejected):
    """The server redirects the client to where it must not go.

    Args:
        rejected: the server's answer, with its status of 3xx.
        why: what is wrong with following it.
    """

    def __init__(self, rejected: HandshakeRejected, why: str) -> None:
        super().__init__(rejected.status, rejected.headers, rejected.body)
        self.args = (f"the server redirects with status {rejected.status}; not followed: {why}",)


class ProxyError(TriowsError):
    """The proxy did not connect this side to the server; no octet reached the server.

    Args:
        reason: what the proxy answered, escaped, or what was wrong with its answer.
        status: the HTTP status with which it refused CONNECT, 100..999; or the SOCKS5 reply,
            1..255 (RFC 1928 §6); None if it gave none.
        headers: the fields of an HTTP answer, in order, as (name, value).
        is_lasting: whether the proxy will say so again: it wants credentials, forbids the
            server, or is no such proxy.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
        is_lasting: bool = False,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers
        self.is_lasting = is_lasting

"""The request that asks for a WebSocket, or for something else over HTTP.

A request lives as long as its connection, so it holds the octets of the head and little else;
what is read from them is read again at each access. Refuses to know whether it is acceptable:
only a server's opening handshake makes one, of a head that is well-formed.
"""

from typing import Any

import attrs

from triows._engine._headers import Headers, list_members
from triows._engine._target import Target, parse_target


@attrs.frozen(kw_only=True)
class Request:
    """A well-formed request; each property but the first three is parsed at each access.

    Attributes:
        head: the head as it came, from the request line to the blank line.
        scheme: ``ws`` or ``wss``.
        remote: the peer's address, as its socket gives it; None if it has none.
        is_upgrade: whether this asks for a WebSocket, not for a page.
    """

    head: bytes = attrs.field(repr=False)
    scheme: str = "ws"
    remote: Any = None
    is_upgrade: bool = True

    @property
    def method(self) -> str:
        """The method: ``GET``, or ``HEAD`` if the request asks for no WebSocket."""
        return self._line()[0]

    @property
    def target(self) -> str:
        """The request target as it came: a path, or a whole URL from a proxy."""
        return self._line()[1]

    @property
    def path(self) -> str:
        """The target's path, percent-decoded; what is not UTF-8 shows as U+FFFD.

        A slash or NUL that was encoded is decoded too: where that matters, use `target`.
        """
        return self._parsed_target().decoded_path

    @property
    def query(self) -> str:
        """What follows the target's question mark, still encoded; empty for nothing."""
        return self._parsed_target().query

    @property
    def headers(self) -> Headers:
        """All header fields."""
        return Headers.parse(self.head)

    @property
    def host(self) -> str:
        """The host that is asked for, and its port if that was given.

        An absolute target's host outranks the Host field (RFC 9112 §3.2.2).
        """
        return self._parsed_target().authority or self.headers["host"]

    @property
    def origin(self) -> str | None:
        """The Origin, which every browser sends and other clients need not (RFC 6454)."""
        return self.headers.get("origin")

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, the one it likes best first."""
        return list_members(self.headers.get_all("sec-websocket-protocol"))

    def _line(self) -> list[str]:
        return self.head[: self.head.index(b"\r\n")].decode("ascii").split(" ")

    def _parsed_target(self) -> Target:
        return parse_target(self.target)

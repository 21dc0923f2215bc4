"""The request for a tunnel through an HTTP proxy, from octets to octets (RFC 9110 §9.3.6).

Refuses to know transports, and what goes through the tunnel.
"""

import re
from base64 import b64encode

import httptools

from triows._engine._head import HeadFault, HeadFields, HeadReader
from triows._engine._headers import Headers
from triows._engine._opening_client import STATUS_LINE
from triows._engine._target import is_authority
from triows._errors import ProxyError
from triows._options import Limits

_PASSING = frozenset({408, 425, 429})
"""Refusals of 4xx that say nothing of the next try."""


class TunnelHandshake:
    """One CONNECT, seen by the client.

    Send what `request_octets` gives, then feed what comes to `receive` until it is True; tell
    the end of input to `receive_eof`.

    Args:
        authority: the server's host and port, as ``host:port``.
        credentials: user name and password for the proxy (RFC 7617), or None.
        user_agent: the User-Agent to send; None for none.
        limits: how large the answer's head may be.

    Raises:
        ValueError: an argument is malformed. No octet was written.
    """

    def __init__(
        self,
        authority: str,
        *,
        limits: Limits,
        credentials: tuple[str, str] | None = None,
        user_agent: str | None = None,
    ) -> None:
        if not is_authority(authority) or re.search(r":[0-9]+\Z", authority) is None:
            raise ValueError(f"a tunnel leads to host:port, not {authority[:80]!a}")
        fields = [("Host", authority)]
        if user_agent is not None:
            fields.append(("User-Agent", user_agent))
        if credentials is not None:
            fields.append(("Proxy-Authorization", _basic(*credentials)))
        self._request = f"CONNECT {authority} HTTP/1.1\r\n".encode() + Headers(fields).to_octets()
        self._heard = HeadFields()
        self._reader = HeadReader(httptools.HttpResponseParser(self._heard), self._heard, limits)

    def request_octets(self) -> bytes:
        """Give the request to send."""
        return self._request + b"\r\n"

    def receive(self, octets: bytes | bytearray | memoryview) -> bool:
        """Take the next octets from the proxy; True once the tunnel stands, and no more then.

        Raises:
            ProxyError: the proxy refuses, or its answer is malformed or too large. The
                connection is to be dropped.
        """
        try:
            if not self._reader.receive(octets):
                return False
        except HeadFault as fault:
            raise ProxyError(
                f"the proxy's answer is refused: {fault.reason}", is_lasting=True
            ) from None
        match = STATUS_LINE.fullmatch(self._reader.start_line())
        if match is None:
            raise ProxyError("the proxy's status line is malformed", is_lasting=True)
        status = int(match[2])
        if not 200 <= status <= 299:
            raise ProxyError(
                f"the proxy refused the tunnel with status {status}",
                status=status,
                headers=tuple(Headers.parse(self._reader.head).items()),
                is_lasting=status < 500 and status not in _PASSING,
            )
        if self._reader.leftover:  # servers of TLS and of WebSockets let their clients begin
            raise ProxyError("the proxy sends octets of its own into the tunnel", is_lasting=True)
        return True

    def receive_eof(self) -> None:
        """Take the end of input.

        Raises:
            ProxyError: always; the answer was not whole.
        """
        raise ProxyError("the proxy closed the connection before its answer was whole")


def _basic(username: str, password: str) -> str:
    """Write Basic credentials (RFC 7617 §2)."""
    if ":" in username:
        raise ValueError("a user name for a proxy holds no colon")
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode("ascii")

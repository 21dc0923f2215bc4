"""HTTP responses: what a server says when it opens no WebSocket, and how it is written.

Refuses to know why: the opening handshake and the application decide that.
"""

import http
from typing import Final

import attrs

from triows._engine._headers import Headers
from triows._errors import HandshakeError

_BODILESS: Final = frozenset({204, 304})
_FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding"})


@attrs.frozen
class HTTPResponse:
    """An HTTP response other than the one that opens a WebSocket.

    Args:
        status: 100..999; what a server sends is 200 or more.
        headers: header fields, as `Headers` takes them; those that frame the response
            (Connection, Content-Length, Transfer-Encoding) are written by triows.
        body: octets, or text, which is sent as UTF-8 and, unless *headers* say otherwise,
            as ``text/plain``.

    Raises:
        ValueError: *status* is out of range, a header cannot be sent, or the status allows
            no body (204, 304) and there is one.
    """

    status: int = attrs.field(
        validator=[attrs.validators.ge(100), attrs.validators.le(999)],
    )
    headers: Headers = attrs.field(factory=Headers, converter=Headers)
    body: bytes | str = attrs.field(default=b"", repr=False)

    @body.validator
    def _refuse_body(self, _attribute: object, body: bytes | str) -> None:
        if body and self.status in _BODILESS:
            raise ValueError(f"a response with status {self.status} has no body")

    def to_octets(self, *, omit_body: bool = False) -> bytes:
        """Write the response as the last one of its connection (RFC 9112 §4).

        Args:
            omit_body: leave out the body but not its length, as the answer to HEAD does.

        Raises:
            ValueError: the status is below 200, or a header is one that triows writes.
        """
        if self.status < 200:
            raise ValueError(f"status {self.status} ends no request")
        for name in self.headers:
            if name.lower() in _FRAMING:
                raise ValueError(f"{name} is for triows to set")
        body = self.body.encode() if isinstance(self.body, str) else self.body
        head = f"HTTP/1.1 {self.status} {reason_phrase(self.status)}\r\n".encode()
        head += self.headers.to_octets()
        if isinstance(self.body, str) and "content-type" not in self.headers:
            head += b"Content-Type: text/plain; charset=utf-8\r\n"
        if self.status not in _BODILESS:
            head += b"Content-Length: %d\r\n" % len(body)
        head += b"Connection: close\r\n\r\n"
        return head if omit_body else head + body


def reason_phrase(status: int) -> str:
    """Give the registered reason phrase of *status*; empty for one that has none."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


class HandshakeRefused(HandshakeError):  # noqa: N818 - a refusal is an answer, not a fault
    """The peer's request is none that an application should see; *response* answers it."""

    def __init__(self, response: HTTPResponse) -> None:
        super().__init__(f"the opening handshake is refused with status {response.status}")
        self.response = response

"""The client's side of the opening handshake, from octets to octets (RFC 6455 §4.1).

Refuses to know time, transport, URLs and where the key's randomness comes from.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Final

import httptools

from triows import _spec
from triows._engine._head import HeadFault, HeadFields, HeadReader
from triows._engine._headers import FieldsLike, Headers
from triows._engine._http import HTTPResponse
from triows._engine._negotiation import DeflateParameters, judge_answer, offer_for
from triows._engine._opening import (
    accept_for,
    check_subprotocols,
    has_body,
    lowered_members,
    refuse_reserved,
)
from triows._engine._target import is_authority, parse_target
from triows._errors import HandshakeRejected, InvalidHandshake
from triows._options import Deflate, Limits
from triows._version import __version__

USER_AGENT: Final = f"triows/{__version__}"

# RFC 9112 §4; the space behind the status is missing in the wild.
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")


class _AnswerHeard(HeadFields):
    """What llhttp tells of an answer: its fields, then its body."""

    def __init__(self, max_body: int) -> None:
        super().__init__()
        self.body = bytearray()
        self.is_over = False
        self._max_body = max_body

    def on_body(self, octets: bytes) -> None:
        """Keep what is under the limit of the body."""
        if self.is_over:
            return  # this belongs to another answer
        self.body += octets[: self._max_body - len(self.body)]
        if len(self.body) == self._max_body:
            self.is_over = True

    def on_message_complete(self) -> None:
        """Note the end of the body."""
        self.is_over = True


class ClientHandshake:
    """One opening handshake, seen by the client.

    Send what `request_octets` gives, then feed what comes to `receive` until that gives the
    server's answer; tell the end of input to `receive_eof`.

    Args:
        host: the server's host, with its port unless that is the scheme's own.
        target: the path and query, percent-encoded.
        headers: further fields of the request, as `Headers` takes them.
        subprotocols: those to offer, the one liked best first.
        deflate: how messages may be compressed, an offer for each (RFC 7692), the one liked
            best first.
        origin: the Origin to send; None for none.
        user_agent: the User-Agent to send unless *headers* has one; None for none.
        limits: how large the answer's head and body may be.
        key: 16 octets, fresh from a cryptographic source for each handshake.

    Raises:
        ValueError: an argument is malformed, or a header is one of the handshake's own.
            No octet was written.

    Attributes:
        response: the server's 101, or None.
        subprotocol: what the server chose of *subprotocols*, or None.
        deflate: which of the offers the server took, and what is agreed; None for none.
        leftover: the octets behind the 101, which are frames.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        host: str,
        target: str,
        *,
        key: bytes,
        limits: Limits,
        headers: FieldsLike = (),
        subprotocols: Sequence[str] = (),
        deflate: Sequence[Deflate] = (),
        origin: str | None = None,
        user_agent: str | None = USER_AGENT,
    ) -> None:
        if len(key) != 16:
            raise ValueError(f"the key has 16 octets, not {len(key)}")
        if not is_authority(host):
            raise ValueError(f"malformed host: {host[:80]!a}")
        if not target.startswith("/"):
            raise ValueError(f"the target does not begin with a slash: {target[:80]!a}")
        parse_target(target)
        self.response: HTTPResponse | None = None
        self.subprotocol: str | None = None
        self.deflate: tuple[Deflate, DeflateParameters] | None = None
        self.leftover = b""
        self._deflate = deflate
        self._offered = check_subprotocols(subprotocols)
        self._key = b64encode(key)
        self._request_line = f"GET {target} HTTP/1.1\r\n".encode()
        self._fields = self._request_fields(host, Headers(headers), origin, user_agent)
        self._heard = _AnswerHeard(limits.max_body)
        self._parser = httptools.HttpResponseParser(self._heard)
        self._reader = HeadReader(self._parser, self._heard, limits)
        self._status = 0  # of an answer whose body is still to come
        # Chunk framing and trailers are read but not kept; they may not go on for ever.
        self._readable = limits.max_body + limits.max_header
        self._is_over = False

    def _request_fields(
        self, host: str, extra: Headers, origin: str | None, user_agent: str | None
    ) -> Headers:
        refuse_reserved(extra)
        if "host" in extra:
            raise ValueError("Host is for the opening handshake to set")
        if origin is not None and "origin" in extra:
            raise ValueError("Origin is given twice")
        fields = [
            ("Host", host),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key.decode()),
            ("Sec-WebSocket-Version", _spec.VERSION),
        ]
        if self._offered:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(self._offered)))
        if self._deflate:
            offers = ", ".join(map(offer_for, self._deflate))
            fields.append(("Sec-WebSocket-Extensions", offers))
        if origin is not None:
            fields.append(("Origin", origin))
        if user_agent is not None and "user-agent" not in extra:
            fields.append(("User-Agent", user_agent))
        return Headers([*fields, *extra.items()])

    def request_octets(self) -> bytes:
        """Give the request to send (RFC 6455 §4.1)."""
        return self._request_line + self._fields.to_octets() + b"\r\n"

    def receive(self, octets: bytes | bytearray | memoryview) -> HTTPResponse | None:
        """Take the next octets from the server.

        Returns:
            The 101 once its head is whole and it is found to be right; None until then.

        Raises:
            InvalidHandshake: the answer is malformed, too large, or a 101 that does not
                answer this request. No frame may be sent; the connection is to be dropped.
            HandshakeRejected: the server answered with another status, and its body has
                ended or reached the limit.
            RuntimeError: the handshake is over; the octets were not taken.
        """
        if self._is_over:
            raise RuntimeError("the opening handshake is over")
        try:
            return self._receive(octets)
        except (InvalidHandshake, HandshakeRejected):
            self._is_over = True
            raise

    def receive_eof(self) -> None:
        """Take the end of input, which ends the handshake in failure.

        Raises:
            HandshakeRejected: the server answered with another status than 101; its body
                ends here.
            InvalidHandshake: the answer's head is not whole.
            RuntimeError: the handshake is over.
        """
        if self._is_over:
            raise RuntimeError("the opening handshake is over")
        self._is_over = True
        if self._status:
            raise self._rejection()
        raise InvalidHandshake("the server closed the connection before its answer was whole")

    def _receive(self, octets: bytes | bytearray | memoryview) -> HTTPResponse | None:
        if not self._status:
            try:
                if not self._reader.receive(octets):
                    return None
            except HeadFault as fault:
                raise InvalidHandshake(f"the server's answer is refused: {fault.reason}") from None
            match = STATUS_LINE.fullmatch(self._reader.start_line())
            if match is None:
                raise InvalidHandshake("the server's status line is malformed")
            if match[2] == b"101":
                return self._judge(match[1])
            self._status = int(match[2])
            octets = self._reader.leftover
        self._receive_body(octets)
        return None

    def _judge(self, minor_version: bytes) -> HTTPResponse:
        """Hold a 101 against RFC 6455 §4.1, the numbered list at the section's end."""
        fields = self._heard.fields
        if minor_version != b"1":
            raise InvalidHandshake("the server answers with HTTP/1.0")
        if [value.lower() for value in fields.get(b"upgrade", [])] != [b"websocket"]:
            raise InvalidHandshake("the Upgrade field must be websocket")
        if b"upgrade" not in lowered_members(fields, b"connection"):
            raise InvalidHandshake("the Connection field must name Upgrade")
        if fields.get(b"sec-websocket-accept", []) != [accept_for(self._key)]:
            raise InvalidHandshake("the Sec-WebSocket-Accept field does not answer the key")
        if b"sec-websocket-extensions" in fields:
            answer = b",".join(fields[b"sec-websocket-extensions"]).decode("iso-8859-1")
            self.deflate = judge_answer(answer, self._deflate)
        if has_body(fields):
            raise InvalidHandshake("a 101 may not have a body")
        self.subprotocol = self._chosen(fields.get(b"sec-websocket-protocol", []))
        self._is_over = True
        self.leftover = self._reader.leftover
        self.response = HTTPResponse(101, Headers.parse(self._reader.head))
        return self.response

    def _chosen(self, values: list[bytes]) -> str | None:
        if not values:
            return None
        chosen = values[0].decode("iso-8859-1")
        if len(values) > 1 or chosen not in self._offered:
            raise InvalidHandshake("the server chose a subprotocol that was not requested")
        return chosen

    def _receive_body(self, octets: bytes | bytearray | memoryview) -> None:
        """Read on in a refusal's body; raises it once there is no more to keep."""
        piece = bytes(octets[: self._readable])
        self._readable -= len(piece)
        if not self._heard.is_over:
            try:
                self._parser.feed_data(piece)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._heard.is_over = True  # the body is malformed, or what follows it is
        if self._heard.is_over or self._readable == 0:
            raise self._rejection()

    def _rejection(self) -> HandshakeRejected:
        headers = tuple(Headers.parse(self._reader.head).items())
        return HandshakeRejected(self._status, headers, bytes(self._heard.body))

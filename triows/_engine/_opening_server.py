"""The server's side of the opening handshake, from octets to octets (RFC 6455 §4.2).

Two kinds of request come through to the application: one that asks for a WebSocket and may
have it, and a plain GET or HEAD, which `Request.is_upgrade` tells apart. Everything else is
refused here. Refuses to know time, transport and what the application decides.
"""

from collections.abc import Collection, Sequence
from typing import Any, NoReturn

import httptools

from triows import _spec
from triows._engine._extensions import parse_extensions
from triows._engine._head import Fields, HeadFault, HeadFields, HeadReader
from triows._engine._headers import FieldsLike, Headers, is_token, list_members
from triows._engine._http import HandshakeRefused, HTTPResponse
from triows._engine._negotiation import DeflateParameters, choose_offer
from triows._engine._opening import (
    accept_for,
    has_body,
    is_key,
    lowered_members,
    refuse_reserved,
)
from triows._engine._request import Request
from triows._engine._target import is_authority, parse_target
from triows._options import Deflate, Limits

_UPGRADE_REQUIRED = HTTPResponse(
    426,
    {"Upgrade": "websocket", "Sec-WebSocket-Version": _spec.VERSION},
    "This is a WebSocket endpoint, for version 13 of the protocol.\n",
)

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: "
)


class ServerHandshake:
    """One opening handshake, seen by the server.

    Feed it octets with `receive` until that gives a request, then answer with what `accept`
    or `refuse` gives, once.

    Args:
        limits: how large the request's head may be.
        subprotocols: those that the server speaks, the one it likes best first.
        origins: the Origins that may open a WebSocket, in lower case, as a browser sends
            them; None among them stands for a request without Origin. None for all.
        deflate: how messages may be compressed (RFC 7692); None for not at all.
        scheme: ``ws`` or ``wss``, for `Request.scheme`.
        remote: the peer's address, for `Request.remote`.

    Attributes:
        request: what `receive` gave, or None.
        refusal: the answer to *request* if the application has none of its own, since it
            asks for no WebSocket; None if it may be accepted.
        deflate: what `accept` agrees to, or None: messages go uncompressed.
        leftover: the octets behind the head; after the 101 they are frames.
    """

    def __init__(
        self,
        limits: Limits,
        subprotocols: Sequence[str] = (),
        origins: Collection[str | None] | None = None,
        *,
        deflate: Deflate | None = None,
        scheme: str = "ws",
        remote: Any = None,
    ) -> None:
        if isinstance(origins, str):
            raise TypeError("origins is a collection of origins, not one origin")
        self.request: Request | None = None
        self.refusal: HTTPResponse | None = None
        self.deflate: DeflateParameters | None = None
        self.leftover = b""
        self._settings = deflate
        self._extensions = b""
        self._subprotocols = subprotocols
        self._origins = origins
        self._scheme = scheme
        self._remote = remote
        self._heard = HeadFields()
        self._reader = HeadReader(httptools.HttpRequestParser(self._heard), self._heard, limits)
        self._key = b""
        self._offered: list[str] = []
        self._is_answered = False

    def receive(self, octets: bytes | bytearray | memoryview) -> Request | None:
        """Take the next octets from the peer.

        Returns:
            The request once its head is whole; None until then.

        Raises:
            HandshakeRefused: the request is malformed, too large, or asks for a WebSocket
                in a way that RFC 6455 §4.2.1 or the allow-list of origins refuses. Its
                response is to be sent, and the connection closed.
            RuntimeError: there is already a request or a refusal; the octets were not taken.
        """
        if self.request is not None or self._is_answered:
            raise RuntimeError("the opening handshake has its request already")
        try:
            if not self._reader.receive(octets):
                return None
            self.request = self._judge()
        except HeadFault as fault:
            self._is_answered = True
            response = HTTPResponse(fault.status, (), f"{fault.reason}\n")
            raise HandshakeRefused(response) from None
        except HandshakeRefused:
            self._is_answered = True
            raise
        self.leftover = self._reader.leftover
        return self.request

    def accept(self, subprotocol: str | None = None, headers: FieldsLike = ()) -> bytes:
        """Write the 101 that makes the connection a WebSocket (RFC 6455 §4.2.2).

        Args:
            subprotocol: one of those that the client offers; None chooses the first of the
                server's own that the client offers, or none.
            headers: further fields, as `Headers` takes them.

        Raises:
            ValueError: *subprotocol* is not offered, or a header cannot be sent or is one
                of the handshake's own. Nothing is decided: `accept` can be called again.
            RuntimeError: there is no request that may be accepted, or it is answered.
        """
        if self.request is None or self.refusal is not None or self._is_answered:
            raise RuntimeError("there is no opening handshake to accept")
        extra = b""
        if headers:
            fields = Headers(headers)
            refuse_reserved(fields)
            extra = fields.to_octets()
        chosen = self.choose_subprotocol(subprotocol)
        self._is_answered = True
        answer = _SWITCHING + accept_for(self._key) + b"\r\n"
        if chosen is not None:
            answer += b"Sec-WebSocket-Protocol: " + chosen.encode() + b"\r\n"
        if self._extensions:
            answer += b"Sec-WebSocket-Extensions: " + self._extensions + b"\r\n"
        return answer + extra + b"\r\n"

    def refuse(self, response: HTTPResponse) -> bytes:
        """Write *response*, after which the connection ends; `leftover` is thrown away.

        Raises:
            ValueError: *response* cannot be sent; nothing is decided.
            RuntimeError: there is no request, or it is answered.
        """
        if self.request is None or self._is_answered:
            raise RuntimeError("there is no request to answer")
        answer = response.to_octets(omit_body=self.request.method == "HEAD")
        self._is_answered = True
        self.leftover = b""
        return answer

    def choose_subprotocol(self, wanted: str | None = None) -> str | None:
        """Give the subprotocol that `accept` would answer with; ValueError as there."""
        if wanted is None:
            return next((name for name in self._subprotocols if name in self._offered), None)
        if wanted not in self._offered:
            raise ValueError(f"the client does not offer the subprotocol {wanted[:80]!a}")
        return wanted

    def _judge(self) -> Request:
        """Make the request of the whole head, or refuse it."""
        reader = self._reader
        method = _check_line(reader.start_line())
        fields = self._heard.fields
        _check_message(fields)
        is_upgrade = b"websocket" in lowered_members(fields, b"upgrade")
        if is_upgrade:
            self._judge_upgrade(fields, method)
        else:
            self.refusal = _UPGRADE_REQUIRED
        return Request(
            head=reader.head, scheme=self._scheme, remote=self._remote, is_upgrade=is_upgrade
        )

    def _judge_upgrade(self, fields: Fields, method: bytes) -> None:
        """Hold the request against RFC 6455 §4.2.1, in the order in which a client can mend it."""
        if method != b"GET":
            _refuse(405, "A WebSocket is opened with GET.", {"Allow": "GET"})
        if b"upgrade" not in lowered_members(fields, b"connection"):
            _refuse(400, "The Connection field must name Upgrade.")
        version = _only(fields, b"sec-websocket-version", "Sec-WebSocket-Version")
        if version != _spec.VERSION.encode():
            if version.isdigit():
                raise HandshakeRefused(_UPGRADE_REQUIRED)
            _refuse(400, "The Sec-WebSocket-Version field must be 13.")
        self._key = _only(fields, b"sec-websocket-key", "Sec-WebSocket-Key")
        if not is_key(self._key):
            _refuse(400, "The Sec-WebSocket-Key field must be 16 octets in base64.")
        if b"sec-websocket-protocol" in fields:
            self._offered = _offered(fields[b"sec-websocket-protocol"])
        if b"sec-websocket-extensions" in fields:
            self._judge_extensions(fields[b"sec-websocket-extensions"])
        self._judge_origin(fields)

    def _judge_extensions(self, values: list[bytes]) -> None:
        try:
            offers = parse_extensions(b",".join(values).decode("iso-8859-1"))
        except ValueError:
            _refuse(400, "The Sec-WebSocket-Extensions field is malformed.")
        chosen = None if self._settings is None else choose_offer(offers, self._settings)
        if chosen is not None:
            answer, self.deflate = chosen
            self._extensions = answer.encode()

    def _judge_origin(self, fields: Fields) -> None:
        origin = None
        if b"origin" in fields:
            origin = _only(fields, b"origin", "Origin").decode("iso-8859-1").lower()
        if self._origins is not None and origin not in self._origins:
            _refuse(403, "This origin may not open a WebSocket here.")


def _refuse(status: int, reason: str, headers: FieldsLike = ()) -> NoReturn:
    raise HandshakeRefused(HTTPResponse(status, headers, f"{reason}\n"))


def _check_line(line: bytes) -> bytes:
    """Refuse what llhttp lets through in a request line (RFC 9112 §3); give the method."""
    words = line.split(b" ")
    if len(words) != 3:
        _refuse(400, "The request line is malformed.")
    method, target, version = words
    if version != b"HTTP/1.1":
        is_newer = version.startswith(b"HTTP/") and version > b"HTTP/1.1"
        _refuse(505 if is_newer else 400, "The HTTP version must be 1.1.")
    if method not in {b"GET", b"HEAD"}:
        _refuse(405, "The method is not allowed here.", {"Allow": "GET, HEAD"})
    try:
        parse_target(target.decode("ascii"))
    except ValueError:
        _refuse(400, "The request target is malformed.")
    return method


def _check_message(fields: Fields) -> None:
    """Refuse a request without a proper Host, or with a body, which nothing here reads."""
    host = _only(fields, b"host", "Host")
    if not is_authority(host.decode("iso-8859-1")):
        _refuse(400, "The Host field is malformed.")
    if has_body(fields):
        _refuse(400, "The request may not have a body.")


def _offered(values: list[bytes]) -> list[str]:
    offered = list_members(value.decode("iso-8859-1") for value in values)
    if not offered or not all(map(is_token, offered)) or len(set(offered)) < len(offered):
        _refuse(400, "The Sec-WebSocket-Protocol field must be a list of different tokens.")
    return offered


def _only(fields: Fields, name: bytes, shown: str) -> bytes:
    values = fields.get(name, [])
    if len(values) != 1:
        _refuse(400, f"There must be exactly one {shown} field.")
    return values[0]

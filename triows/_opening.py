"""The server's opening handshake over a stream: read a request, ask, answer (RFC 6455 §4.2)."""

import inspect
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeAlias

import trio

from triows._engine import (
    Accept,
    HandshakeRefused,
    HTTPResponse,
    Request,
    ServerHandshake,
)
from triows._faultlog import FaultLog
from triows._options import check_kind

Answer: TypeAlias = Accept | HTTPResponse | None
OnRequest: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]

HEAD_SIZE = 16_384
"""Octets of one receive while the request's head is awaited."""

FAREWELL = 1.0
"""Seconds that a peer has to take a refusal before its TCP connection is dropped."""

BROKEN = HTTPResponse(500, (), "Internal server error.\n")
UNAVAILABLE = HTTPResponse(503, {"Retry-After": "1"}, "The server is not available now.\n")


class ServerOpening:
    """One opening handshake over *stream*.

    Args:
        stream: just accepted.
        handshake: what judges the request and writes the answer.
        on_request: decides what becomes of the request.
        faults: where errors of *on_request* go.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        handshake: ServerHandshake,
        on_request: OnRequest | None,
        faults: FaultLog,
    ) -> None:
        self._stream = stream
        self._handshake = handshake
        self._on_request = on_request
        self._faults = faults
        self.is_answered = False
        """Whether octets of an answer may have been sent."""
        self.subprotocol: str | None = None

    async def run(self, patience: float, *, is_full: bool) -> tuple[bool, bool]:
        """Shake hands, or answer with 503.

        Args:
            patience: seconds until the peer is given up.
            is_full: there is room for no other connection.

        Returns:
            Whether there is a WebSocket now, and whether the peer was refused one. Neither,
            if it went away or was given up before it was answered.

        Cancelling answers with 503, unless the peer has its answer.
        """
        is_open = False
        try:
            with trio.move_on_after(patience):
                if is_full:
                    await self.refuse(UNAVAILABLE.to_octets())
                else:
                    is_open = await self.negotiate()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False, False
        except (trio.Cancelled, BaseExceptionGroup):  # a group if on_request has a nursery
            if not self.is_answered:
                await self.refuse(UNAVAILABLE.to_octets())
            raise
        return is_open, self.is_answered and not is_open

    async def negotiate(self) -> bool:
        """Read the request and answer it; returns whether that opened a WebSocket.

        Raises:
            trio.BrokenResourceError: the peer went away.

        Cancelling leaves the stream in an unknown state; see `is_answered`.
        """
        try:
            request = await self._read_request()
        except HandshakeRefused as refused:
            await self.refuse(refused.response.to_octets())
            return False
        if request is None:
            return False
        octets, is_accepted = self._decide(await self._ask(request))
        if not is_accepted:
            await self.refuse(octets)
            return False
        self.is_answered = True
        await self._stream.send_all(octets)
        return True

    async def refuse(self, octets: bytes) -> None:
        """Send a refusal, give the peer a moment to read it, and end the stream's use.

        Cancelling does nothing, but it does not take long.
        """
        self.is_answered = True
        with trio.move_on_after(FAREWELL, shield=True):
            try:
                await self._stream.send_all(octets)
                await self._end_writing()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _end_writing(self) -> None:
        """Close so that what the peer still sends does not reset the answer away."""
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.aclose()
            return
        await self._stream.send_eof()
        while await self._stream.receive_some(HEAD_SIZE):
            pass

    async def _read_request(self) -> Request | None:
        request = None
        while request is None:
            octets = await self._stream.receive_some(HEAD_SIZE)
            if not octets:
                return None
            request = self._handshake.receive(octets)
        return request

    async def _ask(self, request: Request) -> Answer:
        if self._on_request is None:
            return None
        try:
            answer = self._on_request(request)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:  # noqa: BLE001 - the application's fault is this request's end
            self._faults.report("on_request failed", error)
            return BROKEN
        return answer

    def _decide(self, answer: Answer) -> tuple[bytes, bool]:
        """Return the octets to send, and whether they open a WebSocket."""
        handshake = self._handshake
        if answer is None:
            answer = handshake.refusal or Accept()
        try:
            if isinstance(answer, HTTPResponse):
                return handshake.refuse(answer), False
            check_kind("the answer of on_request", answer, Accept, HTTPResponse, None)
            self.subprotocol = handshake.choose_subprotocol(answer.subprotocol)
            return handshake.accept(answer.subprotocol, answer.headers), True
        except Exception as error:  # noqa: BLE001 - whatever the answer is, it is the application's
            self._faults.report("on_request gave an answer that cannot be sent", error)
            return handshake.refuse(BROKEN), False


def check_origins(origins: Collection[str | None] | None) -> Collection[str | None] | None:
    """Return *origins* in the lower case in which they are compared.

    Raises:
        TypeError: it is a single origin.
        ValueError: one of them is no origin as a browser names it, so that none would match.
    """
    if isinstance(origins, str):
        raise TypeError(f"origins is a collection of origins, not one: {origins!a}")
    if origins is None:
        return None
    for one in origins:
        if one not in (None, "null") and _ORIGIN.fullmatch(one) is None:
            raise ValueError(
                f"origins are SCHEME://HOST[:PORT], as browsers name them, not {one!a}"
            )
    return frozenset(None if one is None else one.lower() for one in origins)


_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s*]*")

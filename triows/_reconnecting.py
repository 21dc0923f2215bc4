"""A client that comes back: one WebSocket after the other, for as long as the loop goes on.

The loop may be left in any way, and a plain ``async for`` tells no one when that happens.
An asynchronous generator would learn of it from the garbage collector, in another task, with
its nursery open; Trio cannot have that. So this is a class: its iterator lives exactly as
long as the loop, each connection is driven by a system task of its own, and when the loop
drops the iterator that task is told to close. No user code runs in it, and no error of its
leaves it. ``async with ws:`` in the loop makes the end of a connection wait for its closing
handshake, as `open_websocket` does, and tells the end of a connection from other errors.
"""

import contextlib
import inspect
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TypeAlias, Unpack

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from triows._backoff import Backoff, Pace, may_heal
from triows._channel import CloseReason, ConnectionBroken
from triows._connector import FAREWELL, ConnectOptions, Connector, leave, make_connector
from triows._dialing import Dial
from triows._engine import Headers
from triows._faultlog import FaultLog
from triows._nursery import unwrapped_nursery
from triows._spec import CloseCode
from triows._url import URL
from triows._websocket import WebSocket

logger = logging.getLogger("triows")


@attrs.frozen(kw_only=True)
class Attempt:
    """An attempt to connect that is about to be made.

    A hook may change what is asked for by returning another one: ``attrs.evolve(attempt,
    url=..., headers=...)``. The change is for this attempt alone.
    """

    url: str
    headers: Headers = attrs.field(factory=Headers, converter=Headers)
    failures: int = 0
    """How many attempts and short connections in a row came to nothing before it."""
    after: CloseReason | Exception | None = None
    """How the connection before it ended, or why the attempt before it failed; None at first."""


Resume: TypeAlias = Callable[[Attempt], Attempt | Awaitable[Attempt | None] | None]


class KeptWebSocket(WebSocket):
    """A WebSocket of a client that comes back: its end is nothing out of the ordinary.

    ``async for message in ws`` ends when the connection ends, however that was; see
    `close_reason`. ``async with ws:`` closes it as `open_websocket` does and, of what leaves
    the block, swallows what `receive`, `send` and others raised because this connection has
    ended: `ConnectionBroken` and `trio.EndOfChannel`, also in an exception group of nothing
    else. So the next thing that happens is the next connection.
    """

    async def __anext__(self) -> str | bytes:  # type: ignore[override]  # it is awaited alike
        """Do what `receive` does; the end of the connection ends the loop."""
        try:
            return await super().__anext__()
        except ConnectionBroken:
            raise StopAsyncIteration from None

    async def __aexit__(  # type: ignore[override]  # it may swallow what it is given
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            await self.aclose()
            return False
        await leave(self, error)
        return self._is_own(error)

    def _is_own(self, error: BaseException) -> bool:
        """Whether *error* says nothing but that this connection has ended."""
        if isinstance(error, BaseExceptionGroup):
            return all(self._is_own(one) for one in error.exceptions)
        return self._ending.has_raised(error)


def reconnecting(
    url: str,
    *,
    backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    resume: Resume | None = None,
    dial: Dial | None = None,
    **options: Unpack[ConnectOptions],
) -> "Reconnecting":
    """Connect to a WebSocket server again and again, for the time of an ``async for`` loop.

    Each turn of the loop is given a connection. When its body has been gone through, the
    connection is closed if it still is open, and the next turn waits as *backoff* says and
    connects again. A server that is not there yet is waited for in the same way.

        async for ws in triows.reconnecting(url):
            async with ws:
                await ws.send("hello")
                async for message in ws:
                    ...

    ``async for message in ws`` ends with the connection, however it ends. ``async with ws:``
    does for `send`, `receive` and the rest what the loop alone cannot: an exception that says
    that this connection has ended leads to the next one; any other leaves the loop as it was
    raised. Without it, wrap them in ``try`` and ``except ConnectionBroken``. Leaving the loop,
    by ``break``, ``return`` or an exception, closes the connection: in the background, unless
    an ``async with ws:`` block is left on the way, which waits, and closes with the code that
    fits.

    Args:
        url: as for `open_websocket`.
        backoff: when to connect again.
        resume: called before every attempt with an `Attempt`, to return another one with
            fresh credentials, say, or with the number of the last message that was received;
            None changes nothing. It may be asynchronous. What it raises leaves the loop.
        dial: connects to a host and a port instead of TCP and proxies. In tests, the
            `triows.testing.MemoryServer`'s.
        options: those of `open_websocket`, other than ``stream``.

    Raises:
        ValueError: an argument is malformed.
        TypeError: there is no such option.

    And from the loop what cannot heal, as it was raised: `HandshakeRejected` with a status
    below 500 other than 408, 425 and 429, so 401, 403 and 404; a certificate that was not
    accepted; `ProxyError` where it is lasting; the last error of ``backoff.attempts`` in a row.

    Cancelling, while the loop waits or connects, leaves no connection; in the body, as any
    exception.
    """
    return Reconnecting(make_connector(url, dial=dial, **options), backoff, resume)


class Reconnecting:
    """What `reconnecting` returns: each ``async for`` over it begins anew."""

    def __init__(self, connector: Connector, backoff: Backoff, resume: Resume | None) -> None:
        self._connector = connector
        self._backoff = backoff
        self._resume = resume

    def __aiter__(self) -> AsyncIterator[KeptWebSocket]:
        return _Connections(self._connector, Pace(self._backoff), self._resume)


class _Connections(AsyncIterator[KeptWebSocket]):
    """One loop's connections."""

    def __init__(self, connector: Connector, pace: Pace, resume: Resume | None) -> None:
        self._connector = connector
        self._pace = pace
        self._resume = resume
        self._after: CloseReason | Exception | None = None
        self._upkeep: _Upkeep | None = None
        self._wait = 0.0

    async def __anext__(self) -> KeptWebSocket:
        """Close what the body has left open, and wait for the next connection."""
        if self._upkeep is not None:
            self._after, lasted = await self._upkeep.finish()
            self._upkeep = None
            self._wait = self._pace.after_connection(self._after, lasted)
        while True:
            await trio.sleep(self._wait)
            connector = await self._prepare()
            try:
                return await self._connect(connector)
            except Exception as error:
                if not may_heal(error):
                    raise
                self._after = error
                self._wait = self._pace.after_failure(error, time.time())
                logger.info("cannot connect: %s; trying again in %.1f s", error, self._wait)

    async def _prepare(self) -> Connector:
        """Ask the hook what to ask for."""
        connector = self._connector
        if self._resume is None:
            return connector
        attempt = Attempt(
            url=str(connector.url),
            headers=connector.headers,
            failures=self._pace.failures,
            after=self._after,
        )
        answer = self._resume(attempt)
        changed = await answer if inspect.isawaitable(answer) else answer
        if changed is None:
            return connector
        return attrs.evolve(connector, url=URL.parse(changed.url), headers=changed.headers)

    @enable_ki_protection
    async def _connect(self, connector: Connector) -> KeptWebSocket:
        ws, leftover = await connector.open(KeptWebSocket)
        self._upkeep = _Upkeep(ws, leftover)
        return ws

    def __del__(self) -> None:
        if self._upkeep is not None:
            self._upkeep.drop()


class _Upkeep:
    """Serves a connection in a system task, until it has ended or was dropped.

    Args:
        ws: past the opening handshake, not running yet.
        leftover: the octets that came behind that.
    """

    def __init__(self, ws: KeptWebSocket, leftover: bytes) -> None:
        self._ws = ws
        self._began = trio.current_time()
        self._ended = math.inf
        self._is_dropped = False
        self._must_close = trio.Event()
        self._closing = trio.CancelScope(shield=True)
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.spawn_system_task(self._run, leftover, name=f"upkeep of {ws!r}")

    async def finish(self) -> tuple[CloseReason, float]:
        """Close what is open; give the reason of the end, and the seconds until then."""
        await self._ws.aclose()
        reason = self._ws.close_reason
        assert reason is not None
        return reason, min(self._ended, trio.current_time()) - self._began

    def drop(self) -> None:
        """Note that no one will use the connection; from any thread, at any moment."""
        self._is_dropped = True
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._must_close.set)

    async def _run(self, leftover: bytes) -> None:
        try:
            async with unwrapped_nursery() as nursery:
                nursery.start_soon(self._serve, leftover, nursery.cancel_scope)
                nursery.start_soon(self._close)
                try:
                    await trio.sleep_forever()
                finally:  # the connection has ended, or so has Trio's main task
                    self._closing.deadline = trio.current_time() + FAREWELL
                    self._must_close.set()
        except Exception as error:  # noqa: BLE001 - a system task's error would end everything
            FaultLog().report("a connection has failed", error)

    async def _serve(self, leftover: bytes, scope: trio.CancelScope) -> None:
        try:
            await self._ws.run(leftover)
        finally:
            self._ended = trio.current_time()
            scope.cancel()

    async def _close(self) -> None:
        with self._closing:
            await self._must_close.wait()
            if self._ended == math.inf:  # else what is unread would be thrown away
                code = CloseCode.NORMAL if self._is_dropped else CloseCode.GOING_AWAY
                await self._ws.aclose(code)

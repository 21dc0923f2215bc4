"""`Sender`: how threads and tasks send to a reactor's connections."""

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import trio

from triows._engine import PreparedMessage, close_payload
from triows._reactor import Data, Outbox, SessionId, as_message
from triows._spec import CloseCode, Opcode


class _Reactor(Protocol):
    def outbox_of(self, session: int) -> Outbox:
        """Return the outbox of the loop that serves a session."""

    def hold(self) -> Callable[[], None]:
        """Keep `Reactor.run` from ending, until what is returned is called."""

    def rouse_senders(self) -> None:
        """Have all that wait for room look whether their sender was closed."""


class Sender:
    """Sends to connections of a reactor by their ids, from any thread; see `Reactor.sender`.

    What one thread or task sends to a connection arrives in that order. A message for a
    connection that has ended, or never was, is dropped, and counted in the statistics.
    While a sender is open `Reactor.run` does not return: close each of them, or use it as
    a context manager.

    All methods raise `trio.ClosedResourceError` once this sender is closed, and
    `trio.BrokenResourceError` once the reactor has ended.
    """

    def __init__(self, reactor: _Reactor) -> None:
        self._reactor = reactor
        # Taken out by whoever closes first: no lock, since the garbage collector and
        # signals' handlers close too, at any moment of any thread.
        self._holds = [reactor.hold()]

    def send_nowait(
        self,
        session: SessionId,
        payload: Data,
        opcode: int | None = None,
        *,
        compress: bool | None = None,
    ) -> None:
        """Send a message, from any thread.

        Args:
            session: a `Connection.id`, or what `Reactor.add_session` returned.
            payload: text, octets, or a `PreparedMessage`; what can change is copied.
            opcode: as in `Connection.send`.
            compress: as in `Connection.send`.

        Raises:
            trio.WouldBlock: the loop has not taken ``Limits.sender_octets`` of earlier sends.
            TypeError, ValueError: there is no such message.
        """
        self._check()
        self._reactor.outbox_of(session).put(_item(session, payload, opcode, compress))

    async def send(
        self,
        session: SessionId,
        payload: Data,
        opcode: int | None = None,
        *,
        compress: bool | None = None,
    ) -> None:
        """Send a message, waiting while the loop has too much to take; for Trio's tasks.

        Cancelled, it has sent nothing. Args and errors are those of `send_nowait`.
        """
        self._check()
        item = _item(session, payload, opcode, compress)
        await self._reactor.outbox_of(session).put_in_turn(item, self._check)

    def send_from_thread(
        self,
        session: SessionId,
        payload: Data,
        opcode: int | None = None,
        *,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a message, blocking while the loop has too much to take; not for Trio's thread.

        Args:
            session: as in `send_nowait`.
            payload: as in `send_nowait`.
            opcode: as in `send_nowait`.
            compress: as in `send_nowait`.
            timeout: seconds to wait at the most; None for as long as it takes.

        Raises:
            TimeoutError: there was no room in time; nothing was sent.
            TypeError, ValueError: there is no such message.
        """
        self._check()
        item = _item(session, payload, opcode, compress)
        self._reactor.outbox_of(session).put_from_thread(item, timeout, self._check)

    def close_session(
        self, session: SessionId, code: int = CloseCode.NORMAL, reason: str = ""
    ) -> None:
        """Start the closing handshake with a peer, behind what was sent to it; from any thread.

        Raises:
            ValueError: no peer may be sent that code, or the reason is over 123 octets.
        """
        self._check()
        item = (session, close_payload(code, reason), Opcode.CLOSE)
        self._reactor.outbox_of(session).put(item, is_urgent=True)

    def clone(self) -> "Sender":
        """Return another sender, to be closed by itself; from any thread."""
        self._check()
        return Sender(self._reactor)

    def close(self) -> None:
        """Let go of the reactor; from any thread, and as often as you like.

        Who waits in a method of this sender gets `trio.ClosedResourceError`.
        """
        with contextlib.suppress(IndexError):  # closed before
            self._holds.pop()()
            self._reactor.rouse_senders()

    def __enter__(self) -> Self:
        """Return this sender, which the block's end closes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Close what was forgotten."""
        with contextlib.suppress(AttributeError, IndexError):  # never whole, or closed before
            self._holds.pop()()

    def _check(self) -> None:
        if not self._holds:
            raise trio.ClosedResourceError("this sender is closed")


def _item(
    session: SessionId,
    payload: Data,
    opcode: int | None,
    compress: bool | None,  # noqa: FBT001 - as `Sender.send` was given it
) -> tuple[int, bytes | bytearray | PreparedMessage, int]:
    message, opcode = as_message(payload, opcode, compress)
    return (
        session,
        message if isinstance(message, bytes | PreparedMessage) else bytes(message),
        opcode,
    )

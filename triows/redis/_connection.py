"""One connection to one Redis: where that is, how it is opened, and what is said first.

coredis speaks the protocol; connecting is done here, so that a Redis that is not there costs
no more than the attempt.
"""

import contextlib
import os
import ssl
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import anyio
import anyio.abc
import attrs
import coredis.exceptions
import trio
from coredis.connection import BaseConnection, Location

from triows.redis import _scripts

LOST: Final = (
    coredis.exceptions.RedisError,
    OSError,
    TimeoutError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""What a connection that is lost, or never was, is told by."""

PUSHES: Final = 100
"""Messages that are handled before others get a turn."""


@attrs.frozen
class Address(Location):
    """Where a Redis is, and how to log in."""

    name: str
    """For logs, and for choosing among several: all processes have the same."""
    host: str | None
    port: int
    path: str
    """Of a Unix socket, where there is no host."""
    tls: bool
    login: dict[str, Any] = attrs.field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read a URL.

        Raises:
            ValueError: it is malformed; the message shows no password.
        """
        parts = urlsplit(url)
        is_unix = parts.scheme == "redis+unix"
        database = parse_qs(parts.query).get("db", ["0"])[-1] if is_unix else parts.path.strip("/")
        is_there = bool(parts.path if is_unix else parts.hostname)
        if (
            parts.scheme not in {"redis", "rediss", "redis+unix"}
            or not is_there
            or not (database or "0").isdigit()
        ):
            shown = url.rpartition("@")[2][:80]
            raise ValueError(f"not redis[s]://HOST[:PORT][/DATABASE] or redis+unix:: {shown!a}")
        login: dict[str, Any] = {"db": int(database or "0")}
        if parts.username is not None or parts.password is not None:
            login["username"] = unquote(parts.username or "") or None
            login["password"] = unquote(parts.password or "")
        port = parts.port or 6379
        where = parts.path if is_unix else f"{parts.hostname}:{port}"
        return cls(
            f"{where}/{login['db']}",
            None if is_unix else parts.hostname,
            port,
            parts.path,
            parts.scheme == "rediss",
            login,
        )

    async def dial(self, patience: float) -> anyio.abc.ByteStream:
        """Connect.

        Args:
            patience: seconds that it may take.

        Raises:
            OSError, TimeoutError: it could not be.
        """
        with anyio.fail_after(patience):
            if self.host is None:
                return await anyio.connect_unix(self.path)
            if not self.tls:
                return await anyio.connect_tcp(self.host, self.port)
            return await anyio.connect_tcp(
                self.host,
                self.port,
                ssl_context=ssl.create_default_context(),
                tls_standard_compatible=False,
            )

    async def check(self) -> bool:
        """See `Location`; no one asks."""
        raise NotImplementedError


class Connection(BaseConnection):
    """A connection over a stream that is open already; used once.

    Args:
        address: where it leads.
        stream: what `Address.dial` has given; closed in the end.
        patience: seconds that Redis may take for an answer.
        prefix: of everything that scripts touch.
    """

    def __init__(
        self, address: Address, stream: anyio.abc.ByteStream, patience: float, prefix: str
    ) -> None:
        super().__init__(address, stream_timeout=patience, **address.login)
        self._stream = stream
        self._prefix = prefix
        self._hashes: dict[str, bytes] = {}

    async def _connect(self) -> anyio.abc.ByteStream:
        return self._stream

    def describe(self) -> str:
        """Name it, for coredis."""
        return repr(self.location)

    async def begin(self) -> None:
        """Say what comes first: teach Redis the scripts, and ask whether it has forgotten things.

        Raises:
            One of `LOST`.
        """
        for script in _scripts.ALL:
            answer = await self.create_request(b"SCRIPT LOAD", script)
            assert isinstance(answer, bytes)
            self._hashes[script] = answer
        facts = await self._read_facts()
        # One that has taken the place of another may lack what that one did not pass on in time.
        is_first = not facts.get(b"master_replid2", b"").strip(b"0")
        is_durable = is_first and await self._writes_before_it_answers()
        await self.call(_scripts.BEGIN, facts[b"run_id"], int(is_durable), os.urandom(8).hex())

    async def _read_facts(self) -> dict[bytes, bytes]:
        answer = await self.create_request(b"INFO")
        assert isinstance(answer, bytes)
        pairs = (line.partition(b":") for line in answer.splitlines())
        return {name: value for name, _, value in pairs}

    async def _writes_before_it_answers(self) -> bool:
        try:
            answer = await self.create_request(b"CONFIG GET", b"append*")
        except coredis.exceptions.RedisError:
            return False  # it does not say: hosted ones do not
        assert isinstance(answer, dict)
        return answer.get(b"appendonly") == b"yes" and answer.get(b"appendfsync") == b"always"

    async def call(self, script: str, *args: Any) -> Any:
        """Run a script.

        Raises:
            One of `LOST`.
        """
        return await self.create_request(b"EVALSHA", self._hashes[script], 0, self._prefix, *args)

    def take_pushes(self) -> list[Any]:
        """Return what Redis has sent besides answers and `push_messages` has not given yet.

        That one passes a checkpoint for each, which costs more than all the rest. coredis has
        no public way around it; without this one, they come by that way.
        """
        pushes: list[Any] = []
        buffer = getattr(self, "_push_message_buffer_out", None)
        with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
            while buffer is not None and len(pushes) < PUSHES:
                pushes.append(buffer.receive_nowait())
        return pushes

    def send_names(self, command: bytes, names: list[bytes]) -> None:
        """Subscribe to the channels of rooms, or the opposite; there is no answer.

        Raises:
            One of `LOST`.
        """
        prefix = f"{self._prefix}c:".encode()
        self.send_command(command, *(prefix + name for name in names))


async def run_until_lost(
    connection: Connection, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    """Drive a connection; then end what uses it."""
    await connection.run(task_status=task_status)
    scope.cancel()

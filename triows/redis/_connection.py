"""One connection to one Redis: where that is, how it is opened, what is asked and what comes.

coredis has the protocol: its parser, compiled, reads what comes, and its exceptions name what Redis
complains of. Its connections are not used: between a call and its answer they pass eight times
through Trio's scheduler, which costs a server 0.2 ms of CPU for each batch of messages. Here a call
is written at once where the socket takes it, and whoever waits for its answer, or hears what goes
round, is called by the task that reads: one pass, and 0.06 ms.
"""

import contextlib
import os
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import coredis.exceptions
import trio
from coredis.constants.resp import DataType
from coredis.parser import NOT_ENOUGH_DATA, Parser

from triows._nursery import unwrapped_nursery
from triows.redis import _scripts

LOST: Final = (
    coredis.exceptions.RedisError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)
"""What a connection that is lost, or never was, is told by."""

CHUNK: Final = 65_536
"""Octets that are received at once."""

Part: TypeAlias = bytes | str | int
Take: TypeAlias = Callable[[Any], None]


@attrs.frozen
class Address:
    """Where a Redis is, and how to log in."""

    name: str
    """For logs, and for choosing among several: all processes have the same."""
    host: str | None
    port: int
    path: str
    """Of a Unix socket, where there is no host."""
    tls: bool
    database: int
    login: tuple[str, str] | None = attrs.field(repr=False)
    """A name and a password."""

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
        number = int(database or "0")
        login = None
        if parts.username is not None or parts.password is not None:
            login = unquote(parts.username or "") or "default", unquote(parts.password or "")
        port = parts.port or 6379
        where = parts.path if is_unix else f"{parts.hostname}:{port}"
        host = None if is_unix else parts.hostname
        is_tls = parts.scheme == "rediss"
        return cls(f"{where}/{number}", host, port, parts.path, is_tls, number, login)

    async def dial(self, patience: float) -> trio.abc.Stream:
        """Connect.

        Args:
            patience: seconds that it may take.

        Raises:
            One of `LOST`.
        """
        with trio.fail_after(patience):
            if self.host is None:
                return await trio.open_unix_socket(self.path)
            stream = await trio.open_tcp_stream(self.host, self.port)
            if not self.tls:
                return stream
            context = ssl.create_default_context()
            secure = trio.SSLStream(stream, context, server_hostname=self.host)
            try:
                await secure.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return secure


class Connection:
    """A connection, used once.

    Args:
        stream: what `Address.dial` has given; closed in the end.
        patience: seconds that Redis may take for an answer.
        prefix: of everything that scripts touch.
        take_push: called with what Redis sends besides answers, in its place among these.
    """

    def __init__(
        self, stream: trio.abc.Stream, patience: float, prefix: str, take_push: Take
    ) -> None:
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._patience = patience
        self._prefix = prefix
        self._take_push = take_push
        self._parser = Parser()
        self._hashes: dict[str, bytes] = {}
        self._asked: deque[tuple[Take, float]] = deque()  # who takes an answer, and since when
        self._unsent = bytearray()
        self._writer = trio.lowlevel.ParkingLot()
        self._is_over = False

    # Its tasks.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive the connection until it is lost.

        Raises:
            One of `LOST`.
        """
        try:
            async with unwrapped_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                task_status.started()
                await self._read()
        finally:
            self._is_over = True
            while self._asked:
                take, _ = self._asked.popleft()
                with contextlib.suppress(*LOST):
                    take(coredis.exceptions.ConnectionError("the connection was lost"))
            await trio.aclose_forcefully(self._stream)

    async def _receive(self) -> bytes:
        """Return what has come, as soon as something has; nothing at the end."""
        if self._socket is None:
            return bytes(await self._stream.receive_some(CHUNK))
        while True:  # Trio's would try first, nearly always in vain
            await trio.lowlevel.wait_readable(self._socket)
            with contextlib.suppress(BlockingIOError):
                return os.read(self._socket.fileno(), CHUNK)

    async def _read(self) -> None:
        while octets := await self._receive():
            self._parser.feed(octets)
            while (parsed := self._parse()) is not NOT_ENOUGH_DATA:
                kind, content = parsed
                if kind == DataType.PUSH:
                    self._take_push(content)
                elif self._asked:
                    take, _ = self._asked.popleft()
                    take(content)
                else:
                    raise coredis.exceptions.InvalidResponse("an answer that no one has asked for")
        raise coredis.exceptions.ConnectionError("Redis has closed the connection")

    def _parse(self) -> Any:
        try:
            return self._parser.parse()
        except (ValueError, LookupError, TypeError) as error:
            raise coredis.exceptions.InvalidResponse("what came is no RESP") from error

    async def _write(self) -> None:
        """Send what the socket has not taken at once."""
        while True:
            if not self._unsent:
                await self._writer.park()
            octets = bytes(self._unsent)
            await self._stream.send_all(octets)
            del self._unsent[: len(octets)]

    async def _watch(self) -> None:
        """End it when Redis does not answer in time."""
        while True:
            await trio.sleep(self._patience / 4)
            if self._asked and trio.current_time() - self._asked[0][1] > self._patience:
                raise TimeoutError(f"no answer in {self._patience} s")

    # Asking.

    def ask(self, take: Take, *parts: Part) -> None:
        """Send a command.

        Args:
            take: called with the answer, or with the exception that Redis has answered with,
                or that tells of the connection's end. To end that, it may raise one of `LOST`.
            parts: of the command.

        Raises:
            One of `LOST`.
        """
        self._check()
        self._asked.append((take, trio.current_time()))
        self._send(parts)

    def _check(self) -> None:
        if self._is_over:
            raise coredis.exceptions.ConnectionError("the connection was lost")

    def _send(self, parts: tuple[Part, ...]) -> None:
        octets = pack_command(parts)
        if self._socket is not None and not self._unsent:
            with contextlib.suppress(BlockingIOError):
                octets = octets[os.write(self._socket.fileno(), octets) :]
        if octets:
            self._unsent += octets
            self._writer.unpark()

    async def request(self, *parts: Part) -> Any:
        """Send a command, and wait for the answer.

        Raises:
            One of `LOST`.

        Cancelling: it may have been done, or will be.
        """
        answers: list[Any] = []
        has_come = trio.Event()

        def take(answer: Any) -> None:
            answers.append(answer)
            has_come.set()

        self.ask(take, *parts)
        await has_come.wait()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def ask_script(self, take: Take, script: str, *args: Part) -> None:
        """Run a script; see `ask`."""
        self.ask(take, b"EVALSHA", self._hashes[script], 0, self._prefix, *args)

    async def call(self, script: str, *args: Part) -> Any:
        """Run a script, and wait for the answer; see `request`."""
        return await self.request(b"EVALSHA", self._hashes[script], 0, self._prefix, *args)

    def send_names(self, command: bytes, names: list[bytes]) -> None:
        """Subscribe to the channels of rooms, or the opposite; there is no answer.

        Raises:
            One of `LOST`.
        """
        self._check()
        prefix = f"{self._prefix}c:".encode()
        self._send((command, *(prefix + name for name in names)))

    # What is said first.

    async def begin(self, address: Address) -> None:
        """Log in, teach Redis the scripts, and ask whether it has forgotten things.

        Raises:
            One of `LOST`.
        """
        await self.request(b"HELLO", 3, *((b"AUTH", *address.login) if address.login else ()))
        if address.database:
            await self.request(b"SELECT", address.database)
        for script in _scripts.ALL:
            self._hashes[script] = await self.request(b"SCRIPT", b"LOAD", script)
        facts = await self._read_facts()
        # One that has taken the place of another may lack what that one did not pass on in time.
        is_first = not facts.get(b"master_replid2", b"").strip(b"0")
        is_durable = is_first and await self._writes_before_it_answers()
        await self.call(_scripts.BEGIN, facts[b"run_id"], int(is_durable), os.urandom(8).hex())

    async def _read_facts(self) -> dict[bytes, bytes]:
        answer = await self.request(b"INFO")
        pairs = (line.partition(b":") for line in answer.splitlines())
        return {name: value for name, _, value in pairs}

    async def _writes_before_it_answers(self) -> bool:
        try:
            answer: dict[bytes, bytes] = await self.request(b"CONFIG", b"GET", b"append*")
        except coredis.exceptions.ResponseError:
            return False  # it does not say: hosted ones do not
        return {b"appendonly": b"yes", b"appendfsync": b"always"}.items() <= answer.items()


def pack_command(parts: tuple[Part, ...]) -> bytes:
    """Write a command as RESP has it: an array of strings."""
    packed = [b"*%d\r\n" % len(parts)]
    for part in parts:
        octets = part if isinstance(part, bytes) else str(part).encode()
        packed.append(b"$%d\r\n%b\r\n" % (len(octets), octets))
    return b"".join(packed)

"""One call of a channel, cancelled at one of its steps, among others that are not.

A *scene* is a connection in memory between a channel and a peer that shares no code
with it. Its seed decides all that happens there, and when: how large messages are,
who else sends, how slowly the peer reads, whether it closes. A *case* is a scene, a
call, and the step at which that call is cancelled; a call is tried at every step
that it has. What each call said that it did is held against what the peer got and
gave:

- what was sent by calls that returned, and nothing else, arrives: whole, once, in order;
- what the peer sent is received, whole, once, in order;
- no call waits for ever, and nothing is left of one that was cancelled.

Time is virtual, so that "for ever" passes in no time.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any
from unittest import mock

import attrs
import trio
import trio.testing
from trio._core import _run

from tests.conformance.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, Peer, build_frame
from tests.conformance.transports import open_pair
from tests.unit.conftest import REQUEST, CancelAt, ServingPeer
from triows import ClientEngine, ConnectionBroken, Limits, ServerEngine, WebSocket
from triows._options import NO_KEEPALIVE
from triows._stream import StreamDriver
from triows._websocket import Opening

ROLES = ("server", "client")
WHEN = ("waiting", "woken")
SIZES = (0, 1, 125, 126, 1_000, 5_000, 20_000)
FOR_EVER = 1_000.0
OVER = (trio.ClosedResourceError, trio.EndOfChannel, ConnectionBroken)
"""What a call raises once the connection has been closed, or has ended."""


@attrs.frozen
class Case:
    """A call that is cancelled at its n-th step."""

    seed: int
    role: str
    call: str
    step: int
    when: str


class Scene:
    """A connection, its peer, and what each side knows of what went through."""

    def __init__(self, seed: int, role: str) -> None:
        self.chance = chance = random.Random(seed)
        self.role = role
        ours, theirs = open_pair(chance.choice([512, 4_096, 65_536]))
        limits = Limits(
            send_queue_octets=chance.choice([1, 1_000, 65_536]),
            receive_queue_messages=chance.choice([1, 3, 256]),
        )
        make = ServerEngine if role == "server" else ClientEngine
        engine = make(limits=limits, keepalive=NO_KEEPALIVE, now=trio.current_time())
        drive = partial(StreamDriver, ours, engine)
        self.ws = WebSocket(drive, limits=limits, opening=Opening(request=REQUEST))
        self.peer = (Peer if role == "server" else ServingPeer)(theirs, FOR_EVER)
        self._count = 0
        self._writing = trio.Lock()
        self.is_given = trio.Event()
        self.sent: list[bytes] = []
        self.given: list[bytes] = []
        """What the peer sent, or will have sent before it closes."""
        self.received: list[Any] = []
        self.arrived: list[bytes] = []
        self.may_be_over = False
        """Whether someone may have closed."""
        self.may_be_cut = False
        """Whether the transport may have been dropped, with what was on its way."""

    def message(self) -> bytes:
        """A message unlike any other of this scene."""
        self._count += 1
        return b"%d " % self._count + bytes(self.chance.choice(SIZES))

    # The peer.

    async def read(self, start: float, pause: float) -> None:
        """Take what comes, as slowly as told, and judge it; answer Pings and the Close."""
        await trio.sleep(start)
        begun: list[bytes] | None = None
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while (frame := await self._next_frame()).opcode != CLOSE:
                await trio.sleep(pause)
                if frame.opcode == PING:
                    async with self._writing:
                        await self.peer.send_frame(PONG, frame.payload)
                    continue
                assert (frame.opcode == CONTINUATION) == (begun is not None), frame.opcode
                begun = [*(begun or []), frame.payload]
                if frame.fin:
                    self.arrived.append(b"".join(begun))
                    begun = None
            async with self._writing:
                await self.peer.send_frame(CLOSE, frame.payload)
            if self.role == "client":
                await self.peer.aclose()
            else:
                await self.peer.receive_end()

    async def _next_frame(self) -> Any:
        try:
            return await self.peer.receive_frame()
        except AssertionError:
            assert self.may_be_cut, "the transport ended without a Close"
            raise trio.BrokenResourceError from None

    async def write(self, start: float, count: int, code: int | None) -> None:
        """Send messages, cut anywhere, and a Close if there is a code."""
        self.given = [self.message() for _ in range(count)]
        self.is_given.set()
        cuts = [self.chance.randrange(len(one) + 1) for one in self.given]
        octets = b"".join(map(self._frames, self.given, cuts))
        if code is not None:
            self.may_be_over = True
            octets += self._frame(CLOSE, code.to_bytes(2))
        middle = self.chance.randrange(len(octets) + 1)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._writing:
                for part in (octets[:middle], octets[middle:]):
                    await trio.sleep(start)
                    await self.peer.send(part)

    def _frames(self, message: bytes, cut: int) -> bytes:
        if not cut:
            return self._frame(BINARY, message)
        return self._frame(BINARY, message[:cut], fin=False) + self._frame(0, message[cut:])

    def _frame(self, opcode: int, payload: bytes, **wrongs: Any) -> bytes:
        if self.role == "client":
            wrongs["mask"] = None
        return build_frame(opcode, payload, **wrongs)

    # The channel's users.

    async def send(self, start: float = 0.0) -> None:
        """Send a message, and note it once that has returned."""
        message = self.message()
        await trio.sleep(start)
        with self.tolerate_the_end():
            await self.ws.send(message)
            self.sent.append(message)

    async def receive_the_rest(self) -> None:
        """Receive until all that the peer gave has come, or the end."""
        await self.is_given.wait()
        with self.tolerate_the_end():
            while len(self.received) < len(self.given):
                self.received.append(await self.ws.receive())

    @contextlib.contextmanager
    def tolerate_the_end(self) -> Any:
        """Take an end for what it is, where there may be one."""
        try:
            yield
        except OVER:
            assert self.may_be_over, "the connection ended, and no one had closed it"

    async def be_used(
        self, call: "Callable[[Scene], Awaitable[None]]", attempt: CancelAt, *, is_receiving: bool
    ) -> None:
        """Make the call, with others that send before and behind it, and one that receives."""
        counts = [self.chance.randrange(3) for _ in range(2)]
        rest = self.chance.choice([0, 1])
        async with trio.open_nursery() as rivals:
            for count, start in zip(counts, (0.0, 0.75), strict=True):
                for _ in range(count):
                    rivals.start_soon(self.send, start)
            async with trio.open_nursery() as receiver:
                if not is_receiving:
                    receiver.start_soon(self.receive_the_rest)
                await trio.sleep(0.5)
                await attempt.run(_awaited(call(self)))
                receiver.cancel_scope.cancel()
            await trio.sleep(rest)  # what comes now must not wake who waited before
            await self.receive_the_rest()  # or a peer that cannot write would not read either

    async def finish(self) -> None:
        """Show that the connection still works, if it is open; then close it."""
        for _ in range(2):
            await self.send()
        await ping(self)
        await self.ws.aclose()

    # The verdict.

    def judge(self, *, has_closed: bool) -> None:
        """Hold what each side did against what the other knows of it."""
        arrived = self.arrived
        if self.may_be_cut:
            assert set(arrived) <= set(self.sent), "a message arrived that was not sent"
            assert len(set(arrived)) == len(arrived), "a message arrived twice"
        else:
            assert sorted(arrived) == sorted(self.sent), "what was sent is not what arrived"
        if has_closed:
            assert self.received == self.given[: len(self.received)], "received out of order"
        else:
            assert self.received == self.given, "what was given is not what was received"
        statistics = self.ws.statistics()
        assert statistics.tasks_waiting_to_send == 0
        assert statistics.unsent_octets == 0
        assert not self.ws._pings, "a Ping is still waited for"


# The calls. Each notes what it did once it has returned, with no checkpoint between.


async def send(scene: Scene) -> None:
    """Send a message."""
    message = scene.message()
    with scene.tolerate_the_end():
        await scene.ws.send(message)
        scene.sent.append(message)


async def send_in_parts(scene: Scene) -> None:
    """Send a message in parts; an exception between them closes."""
    parts = [scene.message() for _ in range(scene.chance.randrange(4))]
    pause = scene.chance.choice([0, 0.2])
    was_open = scene.may_be_over
    scene.may_be_over = True
    with scene.tolerate_the_end():
        async with scene.ws.open_message(text=False) as message:
            for part in parts:
                await message.send(part)
                await trio.sleep(pause)
        scene.sent.append(b"".join(parts))
        scene.may_be_over = was_open


async def receive(scene: Scene) -> None:
    """Receive a message."""
    with scene.tolerate_the_end():
        scene.received.append(await scene.ws.receive())


async def receive_batch(scene: Scene) -> None:
    """Receive some messages."""
    with scene.tolerate_the_end():
        scene.received += await scene.ws.receive_batch(scene.chance.randrange(1, 4))


async def receive_parts(scene: Scene) -> None:
    """Receive a message in parts; one that was entered counts as received."""
    with scene.tolerate_the_end():
        async with scene.ws.receive_parts() as message:
            scene.received.append(scene.given[len(scene.received)])
            octets = b"".join([part async for part in message])
            assert octets == scene.received[-1], "the parts are not those of the message"


async def ping(scene: Scene) -> None:
    """Ping."""
    with scene.tolerate_the_end():
        assert await scene.ws.ping() >= 0


async def aclose(scene: Scene) -> None:
    """Close; cancelled, it drops the transport."""
    scene.may_be_over = scene.may_be_cut = True
    try:
        await scene.ws.aclose(4000)
    except trio.Cancelled:
        assert scene.ws.close_reason, "the transport was not dropped"
        raise
    scene.may_be_cut = False


async def send_close(scene: Scene) -> None:
    """Say that nothing more is sent."""
    was_over, scene.may_be_over = scene.may_be_over, True
    try:
        with scene.tolerate_the_end():
            await scene.ws.send_close()
    except trio.Cancelled:
        scene.may_be_over = was_over  # then nothing was done
        raise


async def live_with_it(scene: Scene) -> None:
    """Send in a block that ends with the connection."""
    message = scene.message()
    async with scene.ws.cancel_on_close():
        with scene.tolerate_the_end():
            await scene.ws.send(message)
            scene.sent.append(message)


CALLS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    call.__name__: call
    for call in (
        send,
        send_in_parts,
        receive,
        receive_batch,
        receive_parts,
        ping,
        aclose,
        send_close,
        live_with_it,
    )
}
RECEIVING = ("receive", "receive_batch", "receive_parts")


async def run_case(case: Case) -> int:
    """Run a case; returns how many steps the call had.

    Raises:
        AssertionError: a promise was broken.
        trio.TooSlowError: something waited for ever.
    """
    _run._r.seed(case.seed)
    scene = Scene(case.seed, case.role)
    chance = scene.chance
    code = chance.choice([None, None, None, 1000, 4000])
    attempt = CancelAt(case.step, case.when)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.ws.run, b"")
        nursery.start_soon(scene.write, chance.choice([0, 1]), 1 + chance.randrange(4), code)
        nursery.start_soon(scene.read, chance.choice([0, 1]), chance.choice([0, 0.1]))
        try:
            with trio.fail_after(FOR_EVER):
                await scene.be_used(CALLS[case.call], attempt, is_receiving=case.call in RECEIVING)
                await scene.finish()
        finally:
            scene.ws.abort("the case is over")
    scene.judge(has_closed=case.call in {"aclose", "send_close", "send_in_parts"})
    return attempt.steps


async def _awaited(call: Awaitable[None]) -> None:
    await call


async def run_every_step(seed: int, role: str, call: str) -> int:
    """Run the cases of a call at every step that it has; returns how many these were."""
    count = 0
    for when in WHEN:
        for step in range(200):
            case = Case(seed, role, call, step, when)
            try:
                steps = await run_case(case)
            except Exception as error:
                error.add_note(repr(case))
                raise
            count += 1
            if steps < step:
                break
        else:
            raise AssertionError(f"{call} went through {steps} checkpoints")
    return count


def run_cases(seeds: Iterable[int], calls: Iterable[str] = CALLS) -> int:
    """Run every case of *calls* for each of *seeds*, as both roles; returns how many."""

    async def main() -> int:
        return sum(
            [
                await run_every_step(seed, role, call)
                for seed in seeds
                for role in ROLES
                for call in calls
            ]
        )

    with mock.patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True):
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

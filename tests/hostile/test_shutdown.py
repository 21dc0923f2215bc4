"""How a server ends: in order, within its grace, whenever it is told to (threat model, item 31)."""

import contextlib
import gc
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import BINARY, TEXT, Close, Frame, Peer, build_close, build_request
from tests.conformance.transports import WIRES, MemoryListener, Wire, echo
from tests.conftest import Served, start_on

GRACE = 0.5
over_each_driver = pytest.mark.parametrize("wire", WIRES, indirect=True)


Start = Callable[..., Awaitable[Served]]


@pytest.fixture
async def start(wire: Wire) -> AsyncIterator[Start]:
    """What starts a server in a nursery of the test's own; peers are closed behind it."""

    async def start(nursery: trio.Nursery, handler: Any, **options: Any) -> Served:
        return await start_on(wire, nursery)(handler, **options)

    yield start
    for stream in wire.connections:
        await trio.aclose_forcefully(stream)


@over_each_driver
async def test_item_31_peers_are_told_and_what_was_sent_is_delivered(start: Start, wire: Wire):
    """Cancelling cancels the handlers; each peer gets its messages, then 1001."""
    sent = [0] * 5

    async def talk(ws: triows.WebSocket) -> None:
        number = int(await ws.receive())
        while sent[number] < 20:
            await ws.send(b"%d" % number * 10_000)
            sent[number] += 1
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        served = await start(nursery, talk)
        peers = [await served.connect() for _ in range(5)]
        for number, peer in enumerate(peers):
            await peer.send_frame(TEXT, b"%d" % number)
        await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for number, peer in enumerate(peers):
                expected = Frame(BINARY, b"%d" % number * 10_000)
                for _ in range(sent[number]):
                    assert await peer.receive_message() == expected
                assert await peer.receive_close() == Close(1001)
                await peer.send(build_close(1001))
                await peer.receive_eof()
    assert min(sent) > 0


@over_each_driver
async def test_item_31_a_handshake_under_way_gets_a_503(start: Start, wire: Wire):
    """Who has not finished asking is told to come back; who comes later finds no one."""
    async with trio.open_nursery() as nursery:
        served = await start(nursery, echo)
        peer = await served.open()
        await peer.send(build_request()[:-2])
        await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            assert (await peer.receive_answer()).status == 503
            await peer.receive_end()
    if not wire.is_virtual:
        with pytest.raises(OSError, match="connect"):
            await served.open()


@over_each_driver
@pytest.mark.parametrize("kind", ["deaf", "silent"])
async def test_item_31_no_peer_can_hold_up_the_end(start: Start, wire: Wire, kind: str):
    """Peers that read nothing, or do not answer the Close, are dropped after the grace."""

    async def flood(ws: triows.WebSocket) -> None:
        while kind == "deaf":
            await ws.send(bytes(100_000))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        served = await start(nursery, flood, shutdown_grace=GRACE)
        for _ in range(5):
            await served.connect()
        await trio.testing.wait_all_tasks_blocked(0.02)
        start = trio.current_time()
        nursery.cancel_scope.cancel()
    assert GRACE - 0.01 <= trio.current_time() - start < GRACE + 1.0


@over_each_driver
async def test_item_31_a_second_cancellation_needs_no_grace(start: Start, wire: Wire):
    """Without any grace the end comes at once: the transports are dropped."""
    async with trio.open_nursery() as nursery:
        served = await start(nursery, echo, shutdown_grace=0)
        peer = await served.connect()
        await peer.expect_echo()
        start = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - start < 0.5


@over_each_driver
async def test_connections_in_a_nursery_of_ones_own_live_on(start: Start, wire: Wire):
    """Cancelling a server whose connections run elsewhere only stops it accepting."""
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as nursery:
            served = await start(nursery, echo, handler_nursery=connections, shutdown_grace=0)
            peer = await served.connect()
            nursery.cancel_scope.cancel()
        await peer.expect_echo()
        connections.cancel_scope.cancel()


# Ctrl-C.


async def talk_without_end(started: Any) -> None:
    """A server in memory and peers that keep it busy."""
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(triows.serve_listeners, echo, [listener], shutdown_grace=0.05)
        server = await nursery.start(serve)
        for _ in range(3):
            nursery.start_soon(keep_busy, listener)
        started(server)
        await trio.sleep_forever()


@trio.lowlevel.enable_ki_protection  # it is the server that is tested
async def keep_busy(listener: MemoryListener) -> None:
    """Have messages echoed for as long as it goes."""
    over = AssertionError, trio.BrokenResourceError, trio.ClosedResourceError
    with contextlib.suppress(*over):  # the server may have ended before this begins
        peer = Peer(listener.connect(), 10.0)
        await peer.handshake()
        while True:
            await peer.expect_echo()


@pytest.fixture
def interrupt() -> Iterator[Any]:
    """What has Ctrl-C pressed after so many seconds, and once more a moment later."""
    pressed: list[int] = []

    def press(_number: int, _frame: object) -> None:
        pressed.append(1)
        if len(pressed) >= 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
        signal.raise_signal(signal.SIGINT)

    def after(delay: float, again: float) -> list[int]:
        pressed.clear()
        signal.setitimer(signal.ITIMER_REAL, delay, again)
        return pressed

    before = signal.signal(signal.SIGALRM, press)
    gc.collect()
    gc.freeze()  # what other tests have left is not collected again and again
    yield after
    gc.unfreeze()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# An interrupt between two lines may leave a generator to be finished when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("times", [1, 2])
def test_item_31_ctrl_c_at_any_moment_ends_it(warm: None, interrupt: Any, times: int):
    """Wherever it strikes, once or twice, the run ends within its grace, and says why."""
    seed = int(os.environ.get("TRIOWS_SEED", random.randrange(2**32)))
    print(f"TRIOWS_SEED={seed}")
    chance = random.Random(seed)
    for _ in range(25):
        delay, again = chance.uniform(0.001, 0.03), chance.uniform(0.0002, 0.01)

        def started(_: object, delay: float = delay, again: float = again) -> None:
            # Python loses an interrupt that strikes in a finalizer: then it is pressed again.
            interrupt(delay, again if times == 2 else 2.0)

        clock = trio.testing.MockClock(rate=1.0)
        start = clock.current_time()
        error = run_to_the_end(partial(talk_without_end, started))
        assert set(leaves(error)) == {KeyboardInterrupt}, error
        assert clock.current_time() - start < 10.0


def run_to_the_end(main: Any) -> BaseException:
    """Run *main* until it raises, and no longer; returns what."""
    error: BaseException | None = None
    try:
        try:
            trio.run(main)
        except BaseException as one:  # noqa: BLE001 - which, is what this is about
            error = one
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt as late:  # the second, when all was over
        error = error or late
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Trio's, if it struck there
    assert error is not None
    gc.collect()  # what was interrupted is not for another test to find
    return error


def leaves(error: BaseException) -> list[type[BaseException]]:
    """The types of the exceptions in *error*, a group or a single one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [type(error)]

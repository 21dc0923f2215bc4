"""A client that comes back, under a virtual clock, from servers in memory."""

import contextlib
import gc
import math

import attrs
import pytest
import trio
import trio.testing

import triows
from triows import Backoff, CloseReason, reconnecting
from triows.testing import MemoryServer, memory_server

URL = "ws://server.test/"
PLAIN = Backoff(jitter=0)
pytestmark = pytest.mark.usefixtures("warm")


async def echo(ws):
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


async def go_through(server, body, *, in_block=True):
    """Do *body* with each connection, in its block or without one."""
    async for ws in connect(server):
        if in_block:
            async with ws:
                await body(ws)
        else:
            await body(ws)


def connect(server, backoff=PLAIN, url=URL, **options):
    """Connect to a server in memory, again and again."""
    return reconnecting(url, backoff=backoff, dial=server.dial, **options)


def closing_with(*codes):
    """A handler that closes its n-th connection with the n-th code, and serves the next."""
    left = list(codes)

    async def handler(ws):
        if left:
            await ws.aclose(left.pop(0))
        else:
            await echo(ws)

    return handler


# The loop.


async def test_the_loop_goes_on_however_a_connection_ends(autojump_clock):
    """A clean end, a code and a cut each lead to the next connection; the inner loop just ends."""
    reasons = []
    async with memory_server(closing_with(1000, 1011, 4000)) as server:
        async for ws in connect(server):
            async for _ in ws:
                pass
            reasons.append(ws.close_reason.code)
            if len(reasons) == 3:
                break
    assert reasons == [1000, 1011, 4000]
    assert server.attempts == [0, 1, 3]


async def test_the_server_dies_and_comes_back(nursery, autojump_clock):
    """While the server is away attempts go on, ever slower; a healthy connection resets them."""
    async with memory_server(echo) as server:

        async def fail_twice():
            for time in (100, 200):
                await trio.sleep_until(time)
                server.die()
                await trio.sleep(10)
                server.come_back()

        nursery.start_soon(fail_twice)
        connections = 0
        async for ws in connect(server):
            async with ws:
                connections += 1
                await ws.send("a")
                assert await ws.receive() == "a"
                if connections == 3:
                    break
                await ws.receive()
    assert server.attempts == [0, 101, 103, 107, 115, 201, 203, 207, 215][: len(server.attempts)]
    assert connections == 3


async def test_a_server_that_is_not_there_yet(nursery, autojump_clock):
    """The first connection is waited for as any other."""
    async with memory_server(echo) as server:
        server.die()

        async def come_back():
            await trio.sleep(5)
            server.come_back()

        nursery.start_soon(come_back)
        async for ws in connect(server):
            assert ws.is_open
            break
    assert server.attempts == [0, 1, 3, 7]


async def test_what_came_before_the_end_stays_readable(autojump_clock):
    """A body that takes its time still gets what the peer sent before it closed, and its reason."""

    async def handler(ws):
        await ws.send("a")
        await ws.send("b")
        await ws.aclose(4000)

    async with memory_server(handler) as server:
        async for ws in connect(server):
            await trio.sleep(100)
            assert [message async for message in ws] == ["a", "b"]
            with pytest.raises(triows.ConnectionBroken, match="4000"):
                await ws.receive()
            break


async def test_a_body_that_leaves_the_connection_open(autojump_clock):
    """It is closed before the next one, with 1000, and counts as short if it was."""
    ended = []

    async def handler(ws):
        await echo(ws)
        ended.append((ws.close_reason.code, trio.current_time()))

    async with memory_server(handler) as server:
        async for ws in connect(server):
            if len(server.attempts) == 3:
                break
            assert ws.is_open
    assert ended[:2] == [(1000, 0), (1000, 1)]
    assert server.attempts == [0, 1, 3]


async def test_each_loop_begins_anew(autojump_clock):
    """The same object can be looped over again; waits start over."""
    async with memory_server(closing_with(4000, 4000)) as server:
        connections = connect(server)
        for _ in range(2):
            async for ws in connections:
                assert [message async for message in ws] == []
                break
    assert server.attempts == [0, 0]


# Leaving it.


@attrs.define
class Witness:
    """A handler that notes how its connections end."""

    ends: list = attrs.field(factory=list)

    async def __call__(self, ws):
        """Echo, and note."""
        try:
            await echo(ws)
        finally:
            self.ends.append(ws.close_reason.code)


async def leave_by_break(server):
    """Leave the loop by break."""
    async for ws in connect(server):
        await ws.send("a")
        break


async def leave_by_return(server):
    """Leave the loop by return."""
    async for ws in connect(server):
        await ws.send("a")
        return


async def leave_by_exception(server):
    """Leave the loop by an exception."""
    with contextlib.suppress(KeyError):
        async for ws in connect(server):
            await ws.send("a")
            raise KeyError


async def leave_by_cancellation(server):
    """Leave the loop by cancellation."""
    with trio.move_on_after(5):
        async for ws in connect(server):
            await ws.send("a")
            await trio.sleep_forever()


@pytest.mark.parametrize(
    "leave", [leave_by_break, leave_by_return, leave_by_exception, leave_by_cancellation]
)
async def test_leaving_the_loop_closes(leave, autojump_clock):
    """However the loop is left, the connection closes with 1000, without anyone waiting."""
    witness = Witness()
    async with memory_server(witness) as server:
        await leave(server)
        assert witness.ends == []
        await trio.testing.wait_all_tasks_blocked()
        assert witness.ends == [1000]


async def test_a_cycle_of_garbage_closes(autojump_clock):
    """Also where the iterator is left to the garbage collector, in whatever thread."""
    witness = Witness()
    async with memory_server(witness) as server:

        async def begin():
            iterator = aiter(connect(server))
            iterator.cycle = iterator
            await anext(iterator)

        await begin()
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
        assert witness.ends == [1000]


@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (KeyError, 1011), (KeyboardInterrupt, 1001)]
)
async def test_leaving_the_block_waits_and_tells(error, code, autojump_clock):
    """``async with ws:`` waits for the closing handshake, with the code that fits."""
    witness = Witness()
    async with memory_server(witness) as server:
        with contextlib.nullcontext() if error is None else pytest.raises(error):
            async for ws in connect(server):
                async with ws:
                    if error is not None:
                        raise error
                    break
        assert ws.close_reason == CloseReason(code)
        await trio.testing.wait_all_tasks_blocked()
        assert witness.ends == [code]


async def test_cancelling_the_block(autojump_clock):
    """It closes with 1001, within a second even if the server is deaf."""
    async with memory_server(echo) as server:
        with trio.move_on_after(5) as scope:
            async for ws in connect(server):
                async with ws:
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == 5
        assert ws.close_reason.code == 1001


@pytest.mark.parametrize(("is_dropped", "code"), [(True, 1000), (False, 1001)])
def test_the_end_of_the_run_closes(is_dropped, code):
    """What is open when Trio's main task ends is closed before the run ends."""
    witness, kept = Witness(), []

    async def serve_after_the_end(server):
        with trio.move_on_after(5, shield=True):
            await triows.serve_listeners(witness, [server.listener])

    async def main():
        server = MemoryServer(65_536)
        trio.lowlevel.spawn_system_task(serve_after_the_end, server)
        iterator = aiter(connect(server))
        await anext(iterator)
        if not is_dropped:
            kept.append(iterator)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert witness.ends == [code]


# What leaves the body.


async def test_exceptions_come_out_as_they_were_raised(autojump_clock):
    """No group, no context of triows' own."""
    error = KeyError("mine")

    async def fail(_):
        raise error

    async with memory_server(echo) as server:
        for in_block in (False, True):
            with pytest.raises(KeyError) as caught:
                await go_through(server, fail, in_block=in_block)
            assert caught.value is error
            assert error.__cause__ is None


@pytest.mark.parametrize("way", ["send", "receive", "ping", "nursery", "parts"])
async def test_the_block_swallows_the_connections_end(way, autojump_clock):
    """What says that this connection has ended leads to the next, also from a nursery."""

    async def until_the_end(ws):
        if way == "send":
            while True:
                await ws.send("a")
        elif way == "ping":
            await ws.ping()
            await trio.sleep(1)
            await ws.ping()
        elif way == "parts":
            async with ws.receive_parts() as message:
                await message.receive()
        elif way == "nursery":
            async with trio.open_nursery() as inner:
                inner.start_soon(ws.receive)
                inner.start_soon(ws.ping)
                await trio.sleep(1)
                await ws.send("a")
        else:
            await ws.receive()

    connections = 0
    async with memory_server(closing_with(1001, 1001, 4000)) as server:
        async for ws in connect(server):
            async with ws:
                connections += 1
                if connections == 4:
                    break
                await until_the_end(ws)
    assert connections == 4


async def test_the_block_swallows_nothing_else(autojump_clock):
    """What another connection or a channel of one's own says comes out, alone or in a group."""
    offer, take = trio.open_memory_channel(0)
    offer.close()

    async def receive_elsewhere(_):
        await take.receive()

    async def say_what_another_said(_):
        raise triows.ConnectionBroken(1006, "another's")

    async def receive_both(ws):
        async with trio.open_nursery() as inner:
            inner.start_soon(ws.receive)
            inner.start_soon(take.receive)

    async with memory_server(closing_with(*[4000] * 4)) as server:
        with pytest.raises(trio.EndOfChannel):
            await go_through(server, receive_elsewhere)
        with pytest.raises(triows.ConnectionBroken, match="another's"):
            await go_through(server, say_what_another_said)
        with pytest.raises(ExceptionGroup) as caught:
            await go_through(server, receive_both)
        assert caught.value.subgroup(trio.EndOfChannel)


# Giving up.


def answering(*answers):
    """An on_request that gives its n-th answer to the n-th request, then accepts."""
    left = list(answers)
    return lambda _: left.pop(0) if left else None


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_cannot_heal_is_raised(status, autojump_clock):
    """A refusal of this client leaves the loop, as it was raised, after one attempt."""
    refuse = answering(*[triows.HTTPResponse(status)] * 9)
    async with memory_server(echo, on_request=refuse) as server:
        with pytest.raises(triows.HandshakeRejected) as caught:
            async for _ in connect(server):
                pass
    assert caught.value.status == status
    assert len(server.attempts) == 1


async def test_retry_after_and_busy_servers(autojump_clock):
    """503 and 429 are waited out, as long as they ask for."""
    answers = [triows.HTTPResponse(503, {"Retry-After": "100"}), triows.HTTPResponse(429)]
    async with memory_server(echo, on_request=answering(*answers)) as server:
        async for _ in connect(server):
            break
    assert server.attempts == [0, 101, 103]


@pytest.mark.parametrize(("code", "least", "most"), [(1012, 5, 30), (1013, 30, 60)])
async def test_servers_that_ask_for_time(code, least, most, autojump_clock):
    """1012 and 1013 are waited out."""
    async with memory_server(closing_with(code)) as server:
        async for ws in connect(server):
            if len(server.attempts) == 2:
                break
            async for _ in ws:
                pass
    assert least <= server.attempts[1] <= most


async def test_attempts_in_a_row(autojump_clock):
    """After so many the last error is raised."""
    async with memory_server(echo) as server:
        server.die()
        with pytest.raises(ConnectionRefusedError):
            async for _ in connect(server, Backoff(jitter=0, attempts=4)):
                pass
    assert server.attempts == [0, 1, 3, 7]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("http://a/", {}),
        ("ws://a/#f", {}),
        (URL, {"headers": {"Host": "b"}}),
        (URL, {"connect_timeout": 0}),
        (URL, {"proxy": "gopher://p", "dial": None}),
        (URL, {"max_redirects": -1}),
    ],
)
def test_malformed_arguments(url, options):
    """They are refused where they are given."""
    with pytest.raises(ValueError, match=r"\S"):
        reconnecting(url, **options)


def test_an_option_that_is_none():
    """It is a TypeError at once."""
    with pytest.raises(TypeError, match="stream"):
        reconnecting(URL, stream=None)


# Cancelling it.


@pytest.mark.parametrize("at", [0.0, 0.5, 2.5])
async def test_cancelling_while_it_waits_or_connects(at, autojump_clock):
    """Nothing is left behind."""
    async with memory_server(echo) as server:
        server.die()
        with trio.move_on_after(at) as scope:
            async for _ in connect(server):
                pass
        assert scope.cancelled_caught
        assert trio.current_time() == at


async def test_cancelling_in_the_handshake(autojump_clock):
    """The stream is closed at once."""
    streams = []

    async def dial(_host, _port):
        await trio.lowlevel.checkpoint()
        ours, theirs = triows.testing._open_streams(100)
        streams.append(theirs)
        return ours

    with trio.move_on_after(3) as scope:
        async for _ in reconnecting(URL, dial=dial):
            pass
    assert scope.cancelled_caught
    (theirs,) = streams
    while await theirs.receive_some():
        pass


# The hook.


async def test_the_hook_sees_and_changes_each_attempt(autojump_clock):
    """It is told what happened, and its answer is what is asked for, that once."""
    seen, asked = [], []

    def note(request):
        asked.append((request.target, request.headers.get("authorization")))

    async def resume(attempt):
        await trio.lowlevel.checkpoint()
        seen.append((attempt.failures, attempt.after))
        if len(seen) == 2:
            return None
        number = len(seen)
        return attrs.evolve(
            attempt, url=f"{attempt.url}?after={number}", headers={"Authorization": f"t{number}"}
        )

    async with memory_server(closing_with(4001, 1000), on_request=note) as server:
        async for ws in connect(server, resume=resume, headers={"Authorization": "t"}):
            if len(asked) == 3:
                break
            async for _ in ws:
                pass
    assert asked == [("/?after=1", "t1"), ("/", "t"), ("/?after=3", "t3")]
    assert seen == [(0, None), (1, CloseReason(4001)), (2, CloseReason(1000))]


async def test_the_hook_is_told_of_errors(autojump_clock):
    """Why an attempt failed is what the next one comes after; the hook may be plain."""
    seen = []
    async with memory_server(echo) as server:
        server.die()

        def resume(attempt):
            seen.append(attempt.after)
            if len(seen) == 2:
                server.come_back()

        async for _ in connect(server, resume=resume):
            break
    assert seen[0] is None
    assert isinstance(seen[1], ConnectionRefusedError)


@pytest.mark.parametrize("error", [OSError("mine"), KeyError()])
async def test_what_the_hook_raises_leaves_the_loop(error, autojump_clock):
    """Also if it is of a kind that an attempt may fail with."""

    def resume(_):
        raise error

    async with memory_server(echo) as server:
        with pytest.raises(type(error)) as caught:
            async for _ in connect(server, resume=resume):
                pass
    assert caught.value is error
    assert server.attempts == []


def test_infinity_is_the_default():
    """Nothing but an error that cannot heal ends the loop."""
    assert Backoff().attempts == math.inf

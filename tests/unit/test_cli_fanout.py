"""``triows fanout``: in each of the ways in which it is written, everyone gets everything."""

import signal
from functools import partial

import pytest
import trio
from websockets.sync.client import connect

import triows
from tests.unit.test_cli import PROMPTLY, start  # noqa: F401 - a fixture
from triows._cli import _fanout
from triows._hub import why_no_reactor

MESSAGES = ("grüß euch", b"\x00\xff", "", "g" * 70_000)

WAYS = {
    "channel-reactor": ("channel", {"driver": "reactor"}),
    "channel-stream": ("channel", {"driver": "stream"}),
    "batch-reactor": ("batch", {"driver": "reactor"}),
    "batch-stream": ("batch", {"driver": "stream"}),
    "callback": ("callback", {"threads": 0}),
    "compiled": ("compiled", {"threads": 1}),
    "compiled-inline": ("compiled", {"threads": 0}),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
async def url(request, warm, nursery):
    """The address of a relay."""
    api, settings = request.param
    if settings != {"driver": "stream"} and why_no_reactor():
        pytest.skip(why_no_reactor())
    program = _fanout.make()
    if api in ("channel", "batch"):
        handler = program.channel if api == "channel" else program.batch
        server = await nursery.start(partial(triows.serve, handler, 0, **settings))
    else:
        server = await nursery.start(program.make_reactor(api, **settings).run_echo, 0)
    yield f"ws://127.0.0.1:{server.addresses[0][1]}/"
    nursery.cancel_scope.cancel()


async def test_everyone_gets_everything_in_one_order(url):
    """The sender too, as the kind of message that it was; whoever has left is not missed."""
    with trio.fail_after(30):
        async with triows.open_websocket(url) as ann:
            await ann.send("alone")  # once one hears oneself one is in
            assert await ann.receive() == "alone"
            async with triows.open_websocket(url) as bob:
                await bob.send("here")
                assert await ann.receive() == await bob.receive() == "here"
                async with triows.open_websocket(url) as eve:
                    for message in MESSAGES:
                        await eve.send(message)
                    for peer in (ann, bob, eve):
                        assert [await peer.receive() for _ in MESSAGES] == list(MESSAGES)
                await bob.send("bye")
                assert await ann.receive() == await bob.receive() == "bye"


def test_ready_is_one_line_and_the_server_relays(start):  # noqa: F811 - the fixture
    """As a program it says where it listens, relays, and ends gracefully at a signal."""
    process = start("fanout", "--api", "compiled") if not why_no_reactor() else start("fanout")
    url = process.read_line().removeprefix("READY ").strip()
    with connect(url) as one, connect(url) as other:
        for message in ("hello", b"\x01\x02"):
            one.send(message)
            assert one.recv(PROMPTLY) == other.recv(PROMPTLY) == message
        process.signal(signal.SIGTERM)
        for connection in (one, other):
            with pytest.raises(Exception, match="1001"):
                connection.recv(PROMPTLY)
    assert process.wait(PROMPTLY) == (0, "", "")

"""The chat on several machines: ``examples/chat_broker.py --redis``."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import triows
from chat import SUBPROTOCOL, Directory, serve_member
from chat.directory import SPARE
from chat.machines import open_machines
from triows.testing import memory_pair

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 20.0


class Program:
    """A client that speaks the chat's protocol."""

    def __init__(self, ws, nick):
        self.ws = ws
        self.nick = nick

    async def send(self, kind, **fields):
        """Send an event."""
        await self.ws.send(json.dumps({"type": kind, **fields}))

    async def hear(self, kind, **fields):
        """Receive until there is an event of a kind, and with these fields."""
        with trio.fail_after(PATIENCE):
            while True:
                event = json.loads(await self.ws.receive())
                if event["type"] == kind and fields.items() <= event.items():
                    return event

    async def enter(self, room, **place):
        """Say hello and join a room."""
        await self.send("hello", nick=self.nick)
        await self.send("join", room=room, **place)
        return await self.hear("joined")


@asynccontextmanager
async def machines(redis, count=2):
    """Open so many chats that are one."""
    async with AsyncExitStack() as stack:
        yield [
            Directory(
                5, machines=await stack.enter_async_context(open_machines([redis.url], 5 + SPARE))
            )
            for _ in range(count)
        ]


@asynccontextmanager
async def present(directory, nick, room, **place):
    """Connect a program that has joined a room."""
    handler = partial(serve_member, directory)
    async with memory_pair(handler=handler, subprotocols=[SUBPROTOCOL]) as (ws, _):
        program = Program(ws, nick)
        program.joined = await program.enter(room, **place)
        yield program


async def test_one_chat_on_two_machines(mortal_redis):
    """Messages, who comes and goes, who is there, and numbers that hold on both."""
    async with (
        machines(mortal_redis) as (here, there),
        present(here, "ann", "lobby") as ann,
    ):
        async with present(there, "bob", "Lobby") as bob:
            assert set(bob.joined["members"]) == {"ann", "bob"}
            await ann.hear("presence", event="joined", nick="bob")
            await ann.send("say", room="lobby", text="hello", id="1")
            heard = await bob.hear("message")
            assert await ann.hear("message") == heard
            assert (heard["text"], heard["nick"], heard["seq"]) == ("hello", "ann", 1)
            assert heard["log"] == bob.joined["log"] == ann.joined["log"]
            await bob.send("say", room="lobby", text="hi")
            answer = await ann.hear("message")
            assert (answer["seq"], answer["nick"]) == (2, "bob")
            await bob.send("typing", room="lobby")
            await ann.hear("typing", nick="bob")
            await bob.send("nick", nick="rob")
            await ann.hear("presence", event="renamed", nick="rob", was="bob")
            await ann.send("who", room="lobby")
            assert set((await ann.hear("members"))["members"]) >= {"ann", "rob"}
        await ann.hear("presence", event="left", nick="rob")
        async with present(there, "bob", "lobby", log=heard["log"], after=1) as bob:
            assert await bob.hear("message") == answer  # and not what it has had
            await bob.send("say", room="lobby", text="hello", id="1")  # from before, elsewhere
            await bob.send("say", room="lobby", text="back")
            assert (await ann.hear("message"))["text"] == "back"
            there.say_goodbye()
            assert "shutting down" in (await bob.hear("bye"))["text"]
            await ann.send("say", room="lobby", text="still here")
            while (await ann.hear("message"))["text"] != "still here":
                pass
    assert here._rooms == there._rooms == {}


async def test_the_chat_goes_on_without_redis(mortal_redis):
    """On each machine by itself; then all is said to all."""
    async with (
        machines(mortal_redis) as (here, there),
        present(here, "ann", "lobby") as ann,
        present(there, "bob", "lobby") as bob,
    ):
        await ann.send("say", room="lobby", text="before")
        await bob.hear("message")
        await ann.hear("message")
        mortal_redis.kill()
        while here._machines._said.statistics().is_up:  # noqa: ASYNC110 - another process
            await trio.sleep(0.01)
        await ann.send("say", room="lobby", text="meanwhile")
        assert (await ann.hear("message"))["text"] == "meanwhile"
        async with present(here, "eve", "lobby") as eve:
            assert set(eve.joined["members"]) == {"ann", "eve"}
        mortal_redis.start()
        assert (await bob.hear("message"))["text"] == "meanwhile"


@pytest.mark.slow
async def test_the_program(shared_redis):
    """Two of them, in processes of their own, are one chat; a signal ends each in order."""
    command = [sys.executable, str(EXAMPLES / "chat_broker.py"), "--port", "0"]
    command += ["--redis", shared_redis.url]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - it is quick
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        for _ in range(2)
    ]
    try:
        ports = []
        for process in processes:
            line = await trio.to_thread.run_sync(process.stdout.readline)
            ports.append(re.fullmatch(rb"Open http://127\.0\.0\.1:(\d+)\n", line)[1].decode())
        async with AsyncExitStack() as stack:
            ann, bob = [
                Program(
                    await stack.enter_async_context(
                        triows.open_websocket(f"ws://127.0.0.1:{port}/", subprotocols=[SUBPROTOCOL])
                    ),
                    nick,
                )
                for port, nick in zip(ports, ("ann", "bob"), strict=True)
            ]
            for program in (ann, bob):
                await program.enter("processes")
            await ann.send("say", room="processes", text="hello")
            assert (await bob.hear("message", nick="ann"))["text"] == "hello"
            for process in processes:
                process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE):
                for process in processes:
                    assert await trio.to_thread.run_sync(process.wait) == 0
    finally:
        for process in processes:
            process.kill()
            process.communicate()

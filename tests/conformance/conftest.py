"""Fixtures for what a client must withstand from its server."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

import triows
from tests.conformance.raw_server import RawServer, Scene, set_scene
from tests.conformance.transports import Wire

Meet = Callable[..., AbstractAsyncContextManager[tuple[triows.WebSocket, RawServer]]]


@pytest.fixture
async def scene(wire: Wire) -> Scene:
    """A raw server to connect to, over each transport in turn."""
    return await set_scene(wire)


@pytest.fixture
def meet(scene: Scene) -> Meet:
    """What opens a WebSocket to a raw server; the block gets both ends.

    The raw server's end is dropped before the client leaves its own block.
    """

    @contextlib.asynccontextmanager
    async def meeting(
        octets: bytes = b"", **options: Any
    ) -> AsyncIterator[tuple[triows.WebSocket, RawServer]]:
        opened, wait_opened = trio.open_memory_channel[RawServer](1)

        async def serve() -> None:
            server = await scene.accept()
            await server.open(octets)
            opened.send_nowait(server)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with scene.open(**options) as ws:
                server = await wait_opened.receive()
                try:
                    yield ws, server
                finally:
                    await trio.aclose_forcefully(server.stream)

    return meeting

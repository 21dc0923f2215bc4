"""RFC 6455 §4.1, the client's side, over a transport: items 20 to 26 of the conformance list.

Whatever the refusal, the client sends no frame and drops the connection, even if the
server does not. The vectors are those of the handshake without a transport.
"""

import pytest
import trio

import triows
from tests.conformance.peer import TEXT, build_frame
from tests.conformance.raw_server import SWITCHING, RawServer, Scene
from tests.conformance.test_opening_client_sansio import (
    INVALID,
    KEY,
    LIMITS,
    REJECTED,
    accepting,
)
from triows._engine import ClientHandshake


def is_undecided(octets: bytes) -> bool:
    """Whether it takes the end of input to tell what *octets* amount to."""
    handshake = ClientHandshake("a", "/", key=KEY, limits=LIMITS, subprotocols=["chat"])
    try:
        return handshake.receive(octets) is None
    except triows.HandshakeError:
        return False


async def refusal(
    scene: Scene, vector: bytes, *, limits: triows.Limits = LIMITS, **options: object
) -> triows.HandshakeError:
    """What `open_websocket` raises for *vector*; sees that it sends nothing and drops TCP."""

    async def serve() -> None:
        server = await scene.accept()
        await server.receive_request()
        await send(server)
        assert await server.receive_end() == b""

    async def send(server: RawServer) -> None:
        try:
            await server.send(server.answering(vector))
            if is_undecided(vector):
                await server.end()
        except trio.BrokenResourceError:
            pass  # the client has seen enough

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(triows.HandshakeError) as caught:
            async with scene.open(limits=limits, **options):
                raise AssertionError("the connection was opened")
    return caught.value


def of_item(number: int, table: dict = INVALID):
    """Parametrise over the vectors of one item."""
    vectors = {name: vector for name, vector in table.items() if name.startswith(f"{number}-")}
    assert vectors
    return pytest.mark.parametrize("vector", vectors.values(), ids=vectors)


@of_item(20)
async def test_item_20_accept(scene: Scene, vector: bytes):
    """Item 20: an Accept that is wrong, missing or there twice ends it."""
    assert "Accept" in str(await refusal(scene, vector))


@of_item(21)
async def test_item_21_upgrade(scene: Scene, vector: bytes):
    """Item 21: Upgrade or Connection missing or wrong ends it."""
    assert "field must" in str(await refusal(scene, vector))


@of_item(22, REJECTED)
async def test_item_22_status(scene: Scene, vector: tuple[bytes, int, bytes]):
    """Item 22: another status is a rejection; it tells the status and the capped body."""
    rejected = await refusal(scene, vector[0], max_redirects=0)

    assert isinstance(rejected, triows.HandshakeRejected)
    assert (rejected.status, rejected.body) == vector[1:]


async def test_item_22_fields(scene: Scene):
    """Item 22: a rejection tells the answer's header fields; a redirect need not be followed."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: ws://b/\r\nX: 1\r\nx: 2\r\nContent-Length: 0\r\n\r\n"
    rejected = await refusal(scene, answer, max_redirects=0)

    assert isinstance(rejected, triows.HandshakeRejected)
    expected = [("Location", "ws://b/"), ("X", "1"), ("x", "2"), ("Content-Length", "0")]
    assert list(rejected.headers) == expected


@of_item(22)
async def test_item_22_http_version(scene: Scene, vector: bytes):
    """Item 22: a 101 over other HTTP than 1.1 is invalid."""
    assert isinstance(await refusal(scene, vector), triows.InvalidHandshake)


@of_item(23)
async def test_item_23_unrequested(scene: Scene, vector: bytes):
    """Item 23: a subprotocol or extension that was not requested ends it."""
    refused = await refusal(scene, vector, subprotocols=["chat", "superchat"])

    assert "not requested" in str(refused)


@of_item(24)
async def test_item_24_deflate(scene: Scene, vector: bytes):
    """Item 24: a compression that was not offered, or is malformed, ends it."""
    assert "extension" in str(await refusal(scene, vector))


@of_item(25)
async def test_item_25_junk(scene: Scene, vector: bytes):
    """Item 25: what is no HTTP answer, or none that is whole, ends it."""
    assert isinstance(await refusal(scene, vector), triows.InvalidHandshake)


@pytest.mark.parametrize(
    "vector",
    [
        b"HTTP/1.1 101 " + b"a" * 2**20,
        accepting("HTTP/1.1 101 ", "X: " + "a" * 2**20),
        accepting("HTTP/1.1 101 ", *["X: y"] * 50_000),
    ],
    ids=["line", "header", "fields"],
)
async def test_item_25_too_large(scene: Scene, vector: bytes):
    """Item 25: a head of a mebibyte, or of 50,000 fields, ends it."""
    refused = await refusal(scene, vector, limits=triows.Limits())

    assert isinstance(refused, triows.InvalidHandshake)


async def test_item_25_reset(scene: Scene):
    """Item 25: a connection that is cut off instead of an answer is an invalid handshake."""

    async def serve() -> None:
        server = await scene.accept()
        await server.receive_request()
        server.reset()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(triows.InvalidHandshake):
            async with scene.open():
                pass


async def test_item_26_first_frame(scene: Scene):
    """Item 26: a frame in the same segment as the 101 is delivered."""

    async def serve() -> None:
        server = await scene.accept()
        await server.open(build_frame(TEXT, b"early", mask=None))
        await server.receive_close()
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with scene.open() as ws:
            assert await ws.receive() == "early"


async def test_item_26_octet_by_octet(scene: Scene):
    """Item 26: a 101 and a frame that come octet by octet are delivered."""

    async def serve() -> None:
        server = await scene.accept()
        await server.receive_request()
        for octet in server.answering(SWITCHING) + build_frame(TEXT, b"late", mask=None):
            await server.send(bytes([octet]))
            await trio.lowlevel.checkpoint()
        await server.receive_close()
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with scene.open() as ws:
            assert await ws.receive() == "late"

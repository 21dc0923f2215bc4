"""What a client must withstand from servers, and keep from them; numbers of the threat model."""

import os

import pytest
import trio

import triows
from tests.conformance.raw_server import Scene
from triows._engine._roles import _fresh_key


async def test_item_10_a_redirect_is_not_followed_where_none_is_wanted(scene: Scene):
    """Item 10: without redirects one is told: no credentials go anywhere else."""
    elsewhere = b"ws://elsewhere.example/"

    async def redirect() -> None:
        server = await scene.accept()
        assert b"Bearer of secrets" in await server.receive_request()
        await server.send(
            b"HTTP/1.1 301 \r\nLocation: " + elsewhere + b"\r\nContent-Length: 0\r\n\r\n"
        )
        assert await server.receive_end() == b""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(redirect)
        with pytest.raises(triows.HandshakeRejected) as caught:
            async with scene.open(headers={"Authorization": "Bearer of secrets"}, max_redirects=0):
                pass
    assert caught.value.status == 301
    assert "secrets" not in repr(caught.value)


def test_item_19_masking_keys_differ_after_a_fork():
    """Item 19: processes that share an ancestor do not share keys (RFC 6455 §5.3, §10.3)."""
    _fresh_key()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, b"".join(_fresh_key().to_bytes(4, "big") for _ in range(8)))
        os._exit(0)
    os.waitpid(pid, 0)
    drawn = os.read(ours, 64)
    os.close(ours)
    os.close(theirs)

    assert len(drawn) == 32
    assert drawn != b"".join(_fresh_key().to_bytes(4, "big") for _ in range(8))


def test_item_19_masking_keys_are_the_operating_systems(monkeypatch: pytest.MonkeyPatch):
    """Item 19: each key is four octets of the operating system's generator."""
    asked = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return b"\1\2\3\4"

    monkeypatch.setattr(os, "urandom", urandom)
    engine = triows.ClientEngine()
    for _ in range(3):
        engine.send(triows.Opcode.BINARY, b"\0\0\0\0")

    assert bytes(engine.outbound.head(100)) == b"\x82\x84\1\2\3\4\1\2\3\4" * 3
    assert asked == [4, 4, 4]

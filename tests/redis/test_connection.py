"""Connections to Redis: passwords, databases, Unix sockets, TLS, and servers that are none."""

import ssl
from functools import partial

import pytest
import trio
import trustme

from tests.interop.proxies import free_port
from tests.redis.server import RedisServer
from tests.redis.test_broker import PATIENCE, QUICK, take, wait_until
from triows import Rooms
from triows.redis import open_redis_broker


async def check_there_and_back(url, item="item"):
    """Publish something, and hear it from there."""
    async with open_redis_broker(url, backoff=QUICK, history=0) as broker:
        rooms = Rooms(broker=broker)
        with trio.fail_after(PATIENCE):
            async with rooms.join("a") as room:
                await wait_until(lambda: broker._nodes[0]._connection)
                epoch = room.position.epoch
                await room.publish(item)
                assert await take(room, 1) == [item]
                assert room.position.epoch == epoch
                assert broker.statistics().is_up
                assert broker.statistics().losses == 0


async def test_a_password_and_a_database(tmp_path):
    """A password for the user that there always is, and one of a user's own; a database."""
    with RedisServer(tmp_path / "locked") as server:
        server.ask("ACL", "SETUSER", "ann", "on", ">a b", "allcommands", "allkeys", "allchannels")
        server.ask("CONFIG", "SET", "requirepass", "s3cret")
        for login in (":s3cret", "ann:a%20b"):
            await check_there_and_back(f"redis://{login}@127.0.0.1:{server.port}/3")
        async with open_redis_broker(server.url, backoff=QUICK) as broker:
            rooms = Rooms(broker=broker)
            async with rooms.join("a") as room:  # without a password it is a Redis that is away
                await wait_until(lambda: not broker.statistics().is_up)
                await room.publish("alone")
                assert await take(room, 1) == ["alone"]


async def test_over_a_unix_socket(tmp_path):
    """By its path."""
    path = tmp_path / "socket"
    with RedisServer(tmp_path / "redis", unixsocket=path):
        await check_there_and_back(f"redis+unix://{path}?db=1")


async def test_over_tls(tmp_path, monkeypatch):
    """With a certificate of an authority that the system trusts, and with no other."""
    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    paths = {name: tmp_path / name for name in ("key", "cert", "ca", "other")}
    certificate.private_key_pem.write_to_path(paths["key"])
    certificate.cert_chain_pems[0].write_to_path(paths["cert"])
    authority.cert_pem.write_to_path(paths["ca"])
    other.cert_pem.write_to_path(paths["other"])
    port = free_port()
    options = {
        "tls-port": port, "tls-key-file": paths["key"], "tls-cert-file": paths["cert"],
        "tls-ca-cert-file": paths["ca"], "tls-auth-clients": "no",
    }  # fmt: skip
    assert ssl.get_default_verify_paths().openssl_cafile_env == "SSL_CERT_FILE"
    with RedisServer(tmp_path / "redis", **options):
        url = f"rediss://127.0.0.1:{port}"
        monkeypatch.setenv("SSL_CERT_FILE", str(paths["ca"]))
        await check_there_and_back(url, b"x" * 300_000)
        monkeypatch.setenv("SSL_CERT_FILE", str(paths["other"]))
        async with open_redis_broker(url, backoff=QUICK) as broker:
            await wait_until(lambda: not broker.statistics().is_up)


@pytest.mark.parametrize("size", [70_000, 5_000_000])
async def test_more_than_a_socket_takes_at_once(shared_redis, size):
    """It goes in pieces, and comes in pieces."""
    await check_there_and_back(shared_redis.url, "x" * size)


NONSENSE = [
    b"",
    b"\r\n",
    b"!\r\n",
    b"$x\r\n",
    b"*1\r\n$-5\r\n",
    b"+OK\r\n" * 99,
    b"-\xff\r\n",
    b"%",
]


@pytest.mark.parametrize("answer", NONSENSE)
async def test_a_server_that_is_no_redis(answer):
    """Whatever it says, or if it closes at once: it is away, and rooms go on."""

    async def talk(stream):
        await stream.receive_some()
        await stream.send_all(answer)
        if answer[-1:] == b"%":
            await trio.sleep_forever()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, talk, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        port = listeners[0].socket.getsockname()[1]
        url = f"redis://127.0.0.1:{port}"
        async with open_redis_broker(url, backoff=QUICK, timeout=0.3) as broker:
            rooms = Rooms(broker=broker)
            await wait_until(lambda: not broker.statistics().is_up)
            async with rooms.join("a") as room:
                await room.publish("alone")
                assert await take(room, 1) == ["alone"]
        nursery.cancel_scope.cancel()

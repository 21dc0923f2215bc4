"""The two ends of a connection: what differs."""

import os

import pytest

from tests.naive_reception import BINARY, build_frame
from triows._engine import ClientEngine, Response, ServerEngine


@pytest.fixture
def next_key(monkeypatch):
    """What the operating system's generator returns next."""
    monkeypatch.setattr(os, "urandom", lambda size: b"\x01\x02\x03\x04"[:size])
    return b"\x01\x02\x03\x04"


def test_a_clients_keys_are_the_operating_systems(next_key):
    """A mask key is fresh, unpredictable, and nothing that a fork would copy (§5.3, §10.3)."""
    client = ClientEngine()
    client.send(BINARY, b"hello")

    assert client.outbound.head(100) == build_frame(BINARY, b"hello", key=next_key)


def test_a_clients_reply_in_its_buffer_is_masked_with_such_a_key(next_key):
    """The embedded engine takes its keys from the same place."""
    client = ClientEngine()
    buffer = bytearray(build_frame(BINARY, b"hello"))
    client.process_into(buffer, lambda *_: Response.ECHO)

    assert bytes(client.outbound_local()) + buffer[2:] == build_frame(
        BINARY, b"hello", key=next_key
    )


@pytest.mark.parametrize("size", [16_384, 16_385])
def test_a_servers_long_messages_are_not_copied(size):
    """Beyond 16 KiB bytes are queued as they are, behind a header of their own."""
    server = ServerEngine()
    payload = bytes(size)
    server.send(BINARY, payload)

    assert (server.outbound.peek()[-1] is payload) is (size > 16_384)

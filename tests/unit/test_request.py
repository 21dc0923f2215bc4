"""Requests, as an application sees them."""

import tracemalloc

import attrs
import pytest

from triows._engine import Request

HEAD = (
    b"GET /a%20b?c=d HTTP/1.1\r\n"
    b"Host: example.com:80\r\n"
    b"Origin: http://example.com\r\n"
    b"Sec-WebSocket-Protocol: a, b\r\n"
    b"sec-websocket-protocol: c\r\n\r\n"
)


def test_parts():
    """Every part is read from the head."""
    request = Request(head=HEAD, scheme="wss", remote=("::1", 1))
    assert (request.method, request.target) == ("GET", "/a%20b?c=d")
    assert (request.path, request.query) == ("/a b", "c=d")
    assert (request.host, request.origin) == ("example.com:80", "http://example.com")
    assert request.subprotocols == ["a", "b", "c"]
    assert request.headers.get("host") == "example.com:80"
    assert (request.scheme, request.remote) == ("wss", ("::1", 1))


def test_absent_parts():
    """What the head does not hold is None or empty."""
    request = Request(head=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert request.origin is None
    assert request.subprotocols == []
    assert request.query == ""
    assert request.remote is None


def test_absolute_target():
    """An absolute target's host outranks the Host field."""
    request = Request(head=b"GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (request.host, request.path, request.query) == ("b", "/c", "d")


def test_frozen():
    """A request cannot be changed."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Request(head=HEAD).scheme = "wss"


def test_repr_shows_no_head():
    """A request's repr holds no octets of its peer."""
    assert "example" not in repr(Request(head=HEAD))


def test_memory():
    """A request holds its head and little else, also after its parts were read."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        requests = [Request(head=bytes(bytearray(HEAD))) for _ in range(1_000)]
        assert {request.path for request in requests} == {"/a b"}
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(requests) < len(HEAD) + 200

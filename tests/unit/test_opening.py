"""What both sides of the opening handshake share."""

import pytest

from triows._engine._headers import Headers
from triows._engine._opening import (
    Accept,
    accept_for,
    check_subprotocols,
    has_body,
    is_key,
    lowered_members,
)

RESERVED = ["Upgrade", "connection", "Content-Length", "Transfer-Encoding", "Sec-WebSocket-Foo"]


def test_accept_for_sample():
    """The RFC's sample key gives its sample answer (RFC 6455 §1.3)."""
    assert accept_for(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("key", "expected"),
    [(b"dGhlIHNhbXBsZSBub25jZQ==", True), (b"", False), (b"dGhlIHNhbXBsZSBub25jZQ==\n", False)],
)
def test_is_key(key, expected):
    """A key is 24 characters of base64 and nothing else."""
    assert is_key(key) is expected


def test_accept_takes_pairs():
    """An acceptance makes headers of what it is given."""
    assert Accept("chat", {"X": "y"}).headers == Headers([("x", "y")])


@pytest.mark.parametrize("name", RESERVED)
def test_accept_refuses_reserved(name):
    """An acceptance may not set the handshake's own fields."""
    with pytest.raises(ValueError, match="for the opening handshake to set"):
        Accept(headers={name: "x"})


def test_subprotocols():
    """Subprotocols that are different tokens are taken in order."""
    assert check_subprotocols(["b", "a", "B"]) == ("b", "a", "B")


@pytest.mark.parametrize("names", [["a b"], [""], ["a", "a"], ["a\r\n"]])
def test_bad_subprotocols(names):
    """Subprotocols that are no tokens, or named twice, are refused."""
    with pytest.raises(ValueError, match="subprotocol"):
        check_subprotocols(names)


def test_subprotocols_are_no_str():
    """One name is not taken for a sequence of letters."""
    with pytest.raises(TypeError):
        check_subprotocols("chat")


def test_lowered_members():
    """Members of all the fields of a name, in lower case."""
    fields = {b"connection": [b"A ,b", b"C"]}
    assert lowered_members(fields, b"connection") == [b"a", b"b", b"c"]
    assert lowered_members(fields, b"upgrade") == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({b"content-length": [b"0"]}, False),
        ({b"content-length": [b"1"]}, True),
        ({b"content-length": [b"0", b"0"]}, True),
        ({b"transfer-encoding": [b"chunked"]}, True),
    ],
)
def test_has_body(fields, expected):
    """A body is announced by a length or a transfer coding."""
    assert has_body(fields) is expected

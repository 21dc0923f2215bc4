"""The client's handshake: what it writes, and what it refuses to write."""

import pytest

from triows._engine import ClientHandshake, ServerHandshake
from triows._errors import InvalidHandshake
from triows._options import Limits

KEY = b"the sample nonce"


def handshake_with(host="example.com", target="/chat?a=b", **kwargs):
    """Make a handshake with the RFC's sample key."""
    return ClientHandshake(host, target, **{"key": KEY, "limits": Limits(), **kwargs})


def test_least_request():
    """A request has what RFC 6455 §4.1 requires, and who asks."""
    head = handshake_with(user_agent="me").request_octets()
    assert head == (
        b"GET /chat?a=b HTTP/1.1\r\n"
        b"Host: example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"User-Agent: me\r\n\r\n"
    )


def test_whole_request():
    """Subprotocols, origin and further fields are sent as given."""
    handshake = handshake_with(
        headers=[("X", "1"), ("X", "2")], subprotocols=["a", "b"], origin="http://c"
    )
    request = ServerHandshake(Limits()).receive(handshake.request_octets())
    assert request.subprotocols == ["a", "b"]
    assert request.origin == "http://c"
    assert request.headers.get_all("x") == ["1", "2"]
    assert request.headers["user-agent"].startswith("triows/")


@pytest.mark.parametrize(
    ("kwargs", "expected"), [({"user_agent": None}, []), ({"headers": {"user-agent": "x"}}, ["x"])]
)
def test_user_agent(kwargs, expected):
    """The User-Agent can be left out or replaced."""
    head = handshake_with(**kwargs).request_octets()
    request = ServerHandshake(Limits()).receive(head)
    assert request.headers.get_all("user-agent") == expected


@pytest.mark.parametrize(
    "kwargs",
    [
        {"host": "a\r\nb"},
        {"host": "a b"},
        {"host": ""},
        {"host": "u@a"},
        {"target": "/a\r\nX: y"},
        {"target": "/a b"},
        {"target": "/a#b"},
        {"target": "/ä"},
        {"target": ""},
        {"target": "http://a/"},
        {"key": b"short"},
        {"headers": {"X": "a\r\nb"}},
        {"headers": {"X\n": "a"}},
        {"headers": {"Host": "b"}},
        {"headers": {"upgrade": "b"}},
        {"headers": {"Sec-WebSocket-Key": "b"}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"Origin": "b"}, "origin": "c"},
        {"origin": "a\r\n"},
        {"user_agent": "a\nb"},
        {"subprotocols": ["a b"]},
        {"subprotocols": ["a", "a"]},
    ],
)
def test_bad_arguments(kwargs):
    """What cannot be sent, or is the handshake's own to set, is refused before it is built."""
    with pytest.raises(ValueError, match=r"\S"):
        handshake_with(**kwargs)


def test_response():
    """The server's answer and its choice are kept."""
    client, server = handshake_with(subprotocols=["a", "b"]), ServerHandshake(Limits(), ["b"])
    server.receive(client.request_octets())
    response = client.receive(server.accept(headers={"X": "y"}))
    assert client.response is response
    assert response.status == 101
    assert response.headers["x"] == "y"
    assert client.subprotocol == "b"


def test_over_after_the_answer():
    """Nothing is taken once the handshake is over."""
    client, server = handshake_with(), ServerHandshake(Limits())
    server.receive(client.request_octets())
    client.receive(server.accept())
    with pytest.raises(RuntimeError):
        client.receive(b"x")
    with pytest.raises(RuntimeError):
        client.receive_eof()


def test_over_after_a_failure():
    """Nothing is taken once the handshake has failed."""
    client = handshake_with()
    with pytest.raises(InvalidHandshake):
        client.receive(b"junk")
    with pytest.raises(RuntimeError):
        client.receive(b"x")

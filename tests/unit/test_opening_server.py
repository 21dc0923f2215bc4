"""The server's handshake: its terms, its answers and their order."""

import pytest

from triows._engine import HandshakeRefused, HTTPResponse, ServerHandshake
from triows._options import Limits

OPENING = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\n\r\n"
)
PLAIN = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


def handshake_after(octets, *args, **kwargs):
    """Make a handshake that has received *octets*."""
    handshake = ServerHandshake(Limits(), *args, **kwargs)
    handshake.receive(octets)
    return handshake


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [((), None), (["foo"], None), (["superchat", "chat"], "superchat"), (["foo", "chat"], "chat")],
)
def test_server_prefers(spoken, expected):
    """The first of the server's subprotocols that the client offers is chosen."""
    handshake = handshake_after(OPENING, spoken)
    assert handshake.choose_subprotocol() == expected
    answered = b"Sec-WebSocket-Protocol: %s\r\n" % (expected or "").encode()
    assert (answered in handshake.accept()) == (expected is not None)


def test_application_chooses():
    """The application may choose any subprotocol that the client offers."""
    octets = handshake_after(OPENING, ["chat"]).accept("superchat", {"X": "y"})
    assert octets.endswith(b"\r\nSec-WebSocket-Protocol: superchat\r\nX: y\r\n\r\n")


@pytest.mark.parametrize(
    ("subprotocol", "headers"),
    [
        ("foo", ()),
        ("Chat", ()),
        (None, {"Upgrade": "x"}),
        (None, {"sec-websocket-accept": "x"}),
        (None, {"X": "a\r\nB: c"}),
        (None, {"X\r\n": "a"}),
    ],
)
def test_bad_acceptance(subprotocol, headers):
    """An acceptance that cannot be sent raises, and the handshake can still be accepted."""
    handshake = handshake_after(OPENING)
    with pytest.raises(ValueError, match=r"\S"):
        handshake.accept(subprotocol, headers)
    assert handshake.accept().startswith(b"HTTP/1.1 101 ")


def test_request():
    """The request knows what it asks for and where it comes from."""
    handshake = handshake_after(OPENING, scheme="wss", remote=("::1", 1))
    assert handshake.request.is_upgrade
    assert handshake.request.path == "/chat"
    assert (handshake.request.scheme, handshake.request.remote) == ("wss", ("::1", 1))
    assert handshake.refusal is None


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_plain_request(method):
    """A plain request comes through, with what to answer if nothing else is."""
    handshake = handshake_after(PLAIN.replace(b"GET", method))
    assert not handshake.request.is_upgrade
    assert handshake.refusal.status == 426
    with pytest.raises(RuntimeError):
        handshake.accept()


def test_answer_to_head_has_no_body():
    """The answer to HEAD has no body."""
    octets = handshake_after(PLAIN.replace(b"GET", b"HEAD")).refuse(HTTPResponse(200, body="hi"))
    assert octets.endswith(b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")


def test_refusal_throws_leftover_away():
    """What was left over is thrown away on a refusal, and kept on a 101."""
    refused, accepted = handshake_after(OPENING + b"xy"), handshake_after(OPENING + b"xy")
    refused.refuse(HTTPResponse(401))
    accepted.accept()
    assert (refused.leftover, accepted.leftover) == (b"", b"xy")


def test_bad_refusal():
    """A refusal that cannot be sent raises, and another can still be given."""
    handshake = handshake_after(OPENING)
    with pytest.raises(ValueError, match="ends no request"):
        handshake.refuse(HTTPResponse(101))
    assert handshake.refuse(HTTPResponse(503)).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


def test_one_answer_only():
    """A request is answered once."""
    handshake = handshake_after(OPENING)
    handshake.accept()
    with pytest.raises(RuntimeError):
        handshake.accept()
    with pytest.raises(RuntimeError):
        handshake.refuse(HTTPResponse(400))


def test_no_answer_before_the_request():
    """There is nothing to answer before the request is whole."""
    handshake = handshake_after(OPENING[:-1])
    with pytest.raises(RuntimeError):
        handshake.accept()
    with pytest.raises(RuntimeError):
        handshake.refuse(HTTPResponse(503))


def test_no_octets_after_the_request():
    """Octets are not taken once there is a request."""
    handshake = handshake_after(OPENING)
    with pytest.raises(RuntimeError):
        handshake.receive(b"x")


@pytest.mark.parametrize("octets", [b"\x16\x03", OPENING.replace(b"13", b"8")])
def test_no_octets_after_a_refusal(octets):
    """Octets are not taken once the request is refused, and nothing can be answered."""
    handshake = ServerHandshake(Limits())
    with pytest.raises(HandshakeRefused):
        handshake.receive(octets)
    with pytest.raises(RuntimeError):
        handshake.receive(b"x")
    with pytest.raises(RuntimeError):
        handshake.accept()


def test_origins_are_no_str():
    """One origin is not taken for a collection, in which its own prefix would be found."""
    with pytest.raises(TypeError):
        ServerHandshake(Limits(), origins="http://example.com")

"""CONNECT, from octets to octets: what is asked, and which answers are taken."""

import base64

import pytest

from triows import Limits, ProxyError
from triows._engine import TunnelHandshake


def make(**settings):
    """A handshake for a tunnel to server.test."""
    return TunnelHandshake("server.test:443", limits=Limits(), **settings)


def test_the_request():
    """It names host and port twice, and nothing that was not asked for (RFC 9110 §9.3.6)."""
    assert make().request_octets() == (
        b"CONNECT server.test:443 HTTP/1.1\r\nHost: server.test:443\r\n\r\n"
    )


def test_credentials_and_user_agent():
    """Credentials are Basic ones, in UTF-8 (RFC 7617 §2.1)."""
    request = make(credentials=("jö", "a:b"), user_agent="me").request_octets()
    assert b"\r\nUser-Agent: me\r\n" in request
    token = base64.b64encode("jö:a:b".encode())
    assert b"\r\nProxy-Authorization: Basic " + token + b"\r\n" in request


@pytest.mark.parametrize("authority", ["a", "a:", "a b:1", "[::1]", "a:1\r\nX: y", "a:99999", ":1"])
def test_malformed_authorities(authority):
    """A tunnel leads to a host and a port."""
    with pytest.raises(ValueError, match=r"host:port"):
        TunnelHandshake(authority, limits=Limits())


def test_a_colon_in_the_user_name():
    """Basic credentials cannot have one (RFC 7617 §2)."""
    with pytest.raises(ValueError, match="colon"):
        make(credentials=("a:b", "c"))


ANSWERS = [
    b"HTTP/1.1 200 \r\n\r\n",
    b"HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_any_success_opens_the_tunnel_however_it_is_cut(answer):
    """Any 2xx does (RFC 9110 §9.3.6), cut anywhere, into single octets too."""
    for cut in range(len(answer)):
        tunnel = make()
        if cut:
            assert not tunnel.receive(answer[:cut])
        assert tunnel.receive(answer[cut:])
    tunnel = make()
    assert [tunnel.receive(bytes([octet])) for octet in answer] == [False] * (len(answer) - 1) + [
        True
    ]


@pytest.mark.parametrize(
    ("status", "is_lasting"),
    [
        (407, True),
        (403, True),
        (302, True),
        (101, True),
        (429, False),
        (408, False),
        (500, False),
        (502, False),
        (503, False),
    ],
)
def test_refusals(status, is_lasting):
    """Any other status is a refusal, which is lasting or not; its fields are told."""
    with pytest.raises(ProxyError, match=f"with status {status}") as caught:
        make().receive(b"HTTP/1.1 %d \r\nProxy-Authenticate: Basic\r\n\r\n<html>" % status)
    assert caught.value.status == status
    assert caught.value.is_lasting is is_lasting
    assert caught.value.headers == (("Proxy-Authenticate", "Basic"),)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\x05\x00nonsense", "malformed"),
        (b"HTTP/2 200\r\n\r\n", "refused|malformed"),
        (b"HTTP/1.1 200 \r\nA b\r\n\r\n", "malformed"),
        (b"HTTP/1.1 99999 \r\n\r\n", "malformed"),
        (b"HTTP/1.1 099 x\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 O\x7fK\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 \r\n" + b"A: b\r\n" * 200 + b"\r\n", "too many"),
        (b"HTTP/1.1 200 \r\n\r\n\x81\x00", "octets of its own"),
    ],
)
def test_answers_that_are_none(answer, why):
    """What is malformed, too large or more than an answer is refused for good."""
    with pytest.raises(ProxyError, match=why) as caught:
        make().receive(answer)
    assert caught.value.status is None
    assert caught.value.is_lasting


def test_the_end_before_the_answer():
    """A proxy that hangs up may come back."""
    tunnel = make()
    tunnel.receive(b"HTTP/1.1 2")
    with pytest.raises(ProxyError, match="before its answer was whole") as caught:
        tunnel.receive_eof()
    assert not caught.value.is_lasting

"""The opening handshake under any octets, and against itself."""

import time
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triows._engine import ClientHandshake, HandshakeRefused, Headers, ServerHandshake
from triows._engine._extensions import parse_extensions
from triows._engine._target import is_authority, parse_target
from triows._errors import HandshakeRejected, InvalidHandshake
from triows._options import Limits

SMALL = Limits(max_request_line=64, max_header=256, max_header_fields=8, max_body=16)
LARGE = Limits(max_request_line=2**22, max_header=2**22, max_header_fields=2**20)
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

tokens = st.text("!#$%&'*+-.^_`|~0123456789abcABC", min_size=1, max_size=8)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)

# Octets that look like HTTP every now and then get further than those that never do.
LINES = b"""GET / HTTP/1.1
HTTP/1.1 101 x
HTTP/1.1 400 x
Host: a
Upgrade: websocket
Connection: Upgrade
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
Sec-WebSocket-Extensions: a
Sec-WebSocket-Protocol: a
Transfer-Encoding: chunked
Content-Length: 3

""".splitlines()
SCRAPS = b"GET|/|HTTP/1.1|Sec-WebSocket-Protocol:|,a| |:|\r|\n|\0".split(b"|")
words = st.sampled_from([*(line + b"\r\n" for line in LINES), *SCRAPS])
streams = st.lists(st.one_of(words, words, st.binary(max_size=8)), max_size=24).map(b"".join)


def pieces_of(octets, cuts):
    """Cut *octets* at *cuts*."""
    edges = sorted({0, len(octets), *(cut % (len(octets) + 1) for cut in cuts)})
    return [octets[start:stop] for start, stop in pairwise(edges)]


def serve(pieces):
    """Tell what a server answers to *pieces*, and what is left over."""
    handshake = ServerHandshake(SMALL, ["a"])
    for index, piece in enumerate(pieces):
        try:
            request = handshake.receive(piece)
        except HandshakeRefused as refused:
            return refused.response.to_octets(), b""
        if request is not None:
            rest = handshake.leftover + b"".join(pieces[index + 1 :])
            if handshake.refusal is not None:
                return handshake.refuse(handshake.refusal), rest
            return handshake.accept(), rest
    return None


def connect(pieces):
    """Tell what a client makes of *pieces*."""
    handshake = ClientHandshake("a", "/", key=b"the sample nonce", limits=SMALL)
    try:
        for index, piece in enumerate(pieces):
            if handshake.receive(piece) is not None:
                return handshake.leftover + b"".join(pieces[index + 1 :])
        handshake.receive_eof()
    except InvalidHandshake as invalid:
        return str(invalid)
    except HandshakeRejected as rejected:
        return rejected.status, rejected.body
    raise AssertionError("the end of input ends a handshake")


@given(streams, st.lists(st.integers(0, 1_000), max_size=6))
def test_server_under_any_octets(octets, cuts):
    """A server gives the documented answers only, however its octets are cut."""
    assert serve(pieces_of(octets, cuts)) == serve([octets] if octets else [])


@given(streams, st.lists(st.integers(0, 1_000), max_size=6))
def test_client_under_any_octets(octets, cuts):
    """A client raises the documented errors only, however its octets are cut."""
    assert connect(pieces_of(octets, cuts)) == connect([octets])


@given(
    key=st.binary(min_size=16, max_size=16),
    path=values,
    subprotocols=st.lists(tokens, max_size=4, unique=True),
    spoken=st.lists(tokens, max_size=4, unique=True),
    headers=st.lists(st.tuples(tokens.map("X-{}".format), values), max_size=4),
)
def test_round_trip(key, path, subprotocols, spoken, headers):
    """Client and server understand each other, and agree on the subprotocol."""
    leftover = key[:3]
    target = "/" + path.replace("#", "")
    client = ClientHandshake(
        "a:1", target, key=key, limits=Limits(), headers=headers, subprotocols=subprotocols
    )
    server = ServerHandshake(Limits(), spoken)
    request = server.receive(client.request_octets() + leftover)
    assert server.leftover == leftover
    assert request.target == target
    assert request.subprotocols == subprotocols
    assert list(request.headers.items())[-len(headers) or 99 :] == headers

    chosen = next((name for name in spoken if name in subprotocols), None)
    response = client.receive(server.accept(headers=headers) + leftover)
    assert client.leftover == leftover
    assert client.subprotocol == chosen
    assert list(response.headers.items())[-len(headers) or 99 :] == headers


@given(st.lists(st.tuples(*[st.text("aZ-(): \t\r\n\0\x7fä€", max_size=8)] * 2)))
def test_headers_are_sendable_or_refused(fields):
    """Headers either raise ValueError or come back from their octets unchanged."""
    try:
        headers = Headers(fields)
    except ValueError:
        return
    assert Headers.parse(b"x\r\n" + headers.to_octets() + b"\r\n") == headers


@given(st.text('a=;, "\\\t', max_size=24))
def test_extensions_raise_value_error_only(text):
    """Any text is a list of extensions or a ValueError."""
    with suppress(ValueError):
        assert parse_extensions(text)


@given(st.text("ah:/p[]%t0?@.\n", max_size=16))
def test_targets_raise_value_error_only(text):
    """Any text is a target or a ValueError, and an authority or none."""
    assert is_authority(text) in {True, False}
    with suppress(ValueError):
        assert parse_target(text).path.startswith("/")


def seconds(act):
    """Time *act* by what it keeps a core busy, the best of several."""

    def once():
        start = time.thread_time()
        act()
        return time.thread_time() - start

    return min(once() for _ in range(3))


def head(*lines):
    """Write an opening handshake with *lines*."""
    fields = ["Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    return "\r\n".join(["GET / HTTP/1.1", *fields, KEY, *lines, "", ""]).encode()


SHAPES = {
    "commas": lambda n: "," * n,
    "spaces": lambda n: "a" + " " * n + "b",
    "spaces-between-commas": lambda n: " ," * (n // 2),
    "one-token": lambda n: "a" * n,
    "tokens": lambda n: ",".join(f"a{i}" for i in range(n // 6)),
    "parameters": lambda n: "a" + ";b=c" * (n // 4),
    "semicolons": lambda n: "a" + ";" * n,
    "open-quote": lambda n: 'a;b="' + "c" * n,
    "backslashes": lambda n: 'a;b="' + "\\" * n,
    "quotes": lambda n: 'a;b="' + '"' * n,
    "equals": lambda n: "a;b" + " = " * (n // 3),
}
FIELDS = ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Cookie", "Connection", "Upgrade"]


@pytest.mark.parametrize("name", [*FIELDS, "Host", "Origin", "Sec-WebSocket-Key"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_time_is_linear(name, shape):
    """Twice the octets in a field take about twice the time."""

    def feed(octets):
        handshake = ServerHandshake(LARGE)
        with suppress(HandshakeRefused):
            assert handshake.receive(octets).headers.get_all(name)

    once, twice = head(f"{name}: {shape(2**14)}"), head(f"{name}: {shape(2**15)}")
    ratio = min(seconds(lambda: feed(twice)) / seconds(lambda: feed(once)) for _ in range(3))
    assert ratio < 2.5


def test_time_is_linear_in_pieces():
    """A head that comes octet by octet takes time linear in its size."""

    def dribble(count):
        handshake = ServerHandshake(LARGE)
        for octet in head(f"Cookie: {'a' * count}"):
            handshake.receive(bytes([octet]))

    assert seconds(lambda: dribble(2**13)) < 2.5 * seconds(lambda: dribble(2**12))

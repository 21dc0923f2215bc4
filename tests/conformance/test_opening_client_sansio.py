"""RFC 6455 §4.1, the client's side, over octets: what Autobahn does not ask.

The numbers are those of the conformance list. After anything but a proper 101 the handshake
raises, so that no frame is sent and TCP is dropped.
"""

import pytest
import websockets.client
import websockets.uri

from triows._engine import ClientHandshake
from triows._errors import HandshakeRejected, InvalidHandshake
from triows._options import Limits

KEY = b"the sample nonce"  # the RFC's
BASE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
}
LIMITS = Limits(max_body=8)


def accepting(line="HTTP/1.1 101 Switching Protocols", *extra, **changed):
    """Write the server's 101; *changed* replaces or drops fields, *extra* adds lines."""
    fields = dict(BASE)
    for name, value in changed.items():
        fields[name.replace("_", "-")] = value
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join([*lines, *extra, "", ""]).encode("iso-8859-1")


def outcome(*pieces, subprotocols=("chat", "superchat"), limits=LIMITS):
    """Feed *pieces* and the end of input; tell what comes of it.

    That is (101, subprotocol, leftover), (status, body) of a refusal, or the words of an
    invalid handshake.
    """
    handshake = ClientHandshake("a", "/", key=KEY, limits=limits, subprotocols=subprotocols)
    try:
        for index, piece in enumerate(pieces):
            if (response := handshake.receive(piece)) is not None:
                rest = b"".join(pieces[index + 1 :])
                return response.status, handshake.subprotocol, handshake.leftover + rest
        handshake.receive_eof()
    except HandshakeRejected as rejected:
        return rejected.status, rejected.body
    except InvalidHandshake as invalid:
        return str(invalid)
    raise AssertionError("the end of input ends a handshake")


ACCEPTED = {
    "sample": accepting(),
    "lower-case": accepting(Upgrade="WebSocket", Connection="upgrade").replace(b"Sec-W", b"sec-w"),
    "connection-list": accepting(Connection="keep-alive, Upgrade"),
    "no-reason": accepting("HTTP/1.1 101 "),
    "no-space-behind-status": accepting("HTTP/1.1 101"),
    "content-length-0": accepting("HTTP/1.1 101 ", "Content-Length: 0"),
    "subprotocol": accepting(Sec_WebSocket_Protocol="superchat"),
    "26-frame": accepting() + b"\x81\x02hi",
}

INVALID = {
    "20-accept-wrong": accepting(Sec_WebSocket_Accept="AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    "20-accept-wrong-case": accepting(Sec_WebSocket_Accept=BASE["Sec-WebSocket-Accept"].lower()),
    "20-accept-missing": accepting(Sec_WebSocket_Accept=None),
    "20-accept-empty": accepting(Sec_WebSocket_Accept=""),
    "20-accept-twice": accepting(
        "HTTP/1.1 101 ", f"Sec-WebSocket-Accept: {BASE['Sec-WebSocket-Accept']}"
    ),
    "21-upgrade-missing": accepting(Upgrade=None),
    "21-upgrade-wrong": accepting(Upgrade="websocketx"),
    "21-upgrade-list": accepting(Upgrade="websocket, h2c"),
    "21-connection-missing": accepting(Connection=None),
    "21-connection-wrong": accepting(Connection="keep-alive, not-upgrade"),
    "22-http-1.0": accepting("HTTP/1.0 101 Switching Protocols"),
    "22-http-2.0": accepting("HTTP/2.0 101 Switching Protocols"),
    "22-http-0.9": accepting("HTTP/0.9 101 Switching Protocols"),
    "22-rtsp": accepting("RTSP/1.0 101 Switching Protocols"),
    "23-subprotocol-unrequested": accepting(Sec_WebSocket_Protocol="foo"),
    "23-subprotocol-wrong-case": accepting(Sec_WebSocket_Protocol="Chat"),
    "23-subprotocol-list": accepting(Sec_WebSocket_Protocol="chat, superchat"),
    "23-subprotocol-twice": accepting("HTTP/1.1 101 ", *["Sec-WebSocket-Protocol: chat"] * 2),
    "23-subprotocol-empty": accepting(Sec_WebSocket_Protocol=""),
    "23-extension-unrequested": accepting(Sec_WebSocket_Extensions="foo"),
    "24-deflate-twice": accepting(
        Sec_WebSocket_Extensions="permessage-deflate, permessage-deflate"
    ),
    "24-deflate-unknown": accepting(Sec_WebSocket_Extensions="permessage-deflate; foo"),
    "24-deflate-duplicate": accepting(
        Sec_WebSocket_Extensions="permessage-deflate" + "; server_no_context_takeover" * 2
    ),
    "24-deflate-bits-7": accepting(
        Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=7"
    ),
    "24-deflate-bits-16": accepting(
        Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=16"
    ),
    "24-deflate-flag-with-value": accepting(
        Sec_WebSocket_Extensions="permessage-deflate; server_no_context_takeover=1"
    ),
    "25-junk": b"\x15\x03\x01\0\x02\x02\x46" * 8,
    "25-text": b"SSH-2.0-OpenSSH_9.6\r\n",
    "25-eof": b"",
    "25-eof-in-line": b"HTTP/1.1 1",
    "25-eof-in-head": accepting()[:-2],
    "25-blank-line-before": b"\r\n" + accepting(),
    "25-nul-in-reason": accepting("HTTP/1.1 101 a\0b"),
    "25-status-of-two-digits": accepting("HTTP/1.1 99 x"),
    "25-status-099": accepting("HTTP/1.1 099 x"),
    "25-status-of-four-digits": accepting("HTTP/1.1 1010 x"),
    "25-obs-fold": accepting("HTTP/1.1 101 ", "X: a", " b"),
    "25-bare-lf": accepting().replace(b"\r\n", b"\n"),
    "25-space-before-colon": accepting("HTTP/1.1 101 ", "X : a"),
    "25-content-length": accepting("HTTP/1.1 101 ", "Content-Length: 2") + b"hi",
    "25-chunked": accepting("HTTP/1.1 101 ", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
}

CHUNKED = b"HTTP/1.1 400 \r\nTransfer-Encoding: chunked\r\n\r\n"

REJECTED = {
    "22-200-length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", 200, b"he"),
    "22-200-pipelined": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe" + b"HTTP/1.1 200 OK\r\n\r\nll",
        200,
        b"he",
    ),
    "22-200-then-101": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe" + accepting(),
        200,
        b"he",
    ),
    "22-200-until-eof": (b"HTTP/1.1 200 OK\r\n\r\nhello", 200, b"hello"),
    "22-200-upgrading": (accepting("HTTP/1.1 200 OK", "Content-Length: 0"), 200, b""),
    "22-401": (b"HTTP/1.1 401 \r\nContent-Length: 0\r\n\r\n", 401, b""),
    "22-302": (b"HTTP/1.1 302 \r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302, b""),
    "22-426-upgrading": (accepting("HTTP/1.1 426 Upgrade Required") + b"no", 426, b"no"),
    "22-103": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + accepting(), 103, b""),
    "22-204": (b"HTTP/1.1 204 \r\n\r\nx", 204, b""),
    "22-http-1.0": (b"HTTP/1.0 404 Not Found\r\n\r\nno", 404, b"no"),
    "22-999": (b"HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n", 999, b""),
    "22-chunked": (
        CHUNKED + b"2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nT: t\r\n\r\n",
        400,
        b"abcde",
    ),
    "22-chunks-malformed": (
        CHUNKED + b"2\r\nab\r\nx",
        400,
        b"ab",
    ),
    "22-cut": (b"HTTP/1.1 400 \r\nContent-Length: 5\r\n\r\nab", 400, b"ab"),
    "22-body-at-limit": (b"HTTP/1.1 400 \r\n\r\n12345678", 400, b"12345678"),
    "22-body-over-limit": (b"HTTP/1.1 400 \r\n\r\n123456789", 400, b"12345678"),
}


def of_item(number, table=INVALID):
    """Parametrise over the vectors of one item."""
    vectors = {name: vector for name, vector in table.items() if name.startswith(f"{number:02}-")}
    assert vectors
    return pytest.mark.parametrize("vector", vectors.values(), ids=vectors)


@pytest.mark.parametrize("vector", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(vector):
    """What RFC 6455 §4.1 allows in a 101 is accepted."""
    assert outcome(vector)[0] == 101


@of_item(20)
def test_item_20_accept(vector):
    """Item 20: Sec-WebSocket-Accept is there once, and answers the key exactly."""
    assert "Sec-WebSocket-Accept" in outcome(vector)


@of_item(21)
def test_item_21_upgrade(vector):
    """Item 21: Upgrade is websocket, and Connection names it."""
    assert "field must" in outcome(vector)


@of_item(22, REJECTED)
def test_item_22_status(vector):
    """Item 22: another status is a rejection, with the first octets of its body."""
    assert outcome(vector[0]) == vector[1:]


@of_item(22)
def test_item_22_http_version(vector):
    """Item 22: a 101 over other HTTP than 1.1 is invalid."""
    assert isinstance(outcome(vector), str)


@of_item(23)
def test_item_23_unrequested(vector):
    """Item 23: a subprotocol or extension that was not requested is invalid."""
    assert "not requested" in outcome(vector)


def test_item_23_no_subprotocol_requested():
    """Item 23: a subprotocol is invalid where none was offered."""
    octets = accepting(Sec_WebSocket_Protocol="chat")
    assert "not requested" in outcome(octets, subprotocols=())


@of_item(24)
def test_item_24_deflate(vector):
    """Item 24: a compression that was not offered, or is not answered properly, is invalid."""
    assert "extension" in outcome(vector)


@of_item(25)
def test_item_25_junk(vector):
    """Item 25: what is no HTTP answer, or none that is whole, is invalid."""
    assert isinstance(outcome(vector), str)


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 101 " + b"a" * 2**20,
        accepting("HTTP/1.1 101 ", "X: " + "a" * 2**20),
        accepting("HTTP/1.1 101 ", *["X: y"] * 50_000),
    ],
    ids=["line", "header", "fields"],
)
def test_item_25_too_large(octets):
    """Item 25: a head of a mebibyte, or of 50,000 fields, is invalid."""
    assert "too" in outcome(octets)


def test_item_25_body_without_end():
    """Item 25: chunks that hold nothing, and trailers, do not go on for ever."""
    handshake = ClientHandshake("a", "/", key=KEY, limits=LIMITS)
    handshake.receive(CHUNKED + b"0\r\nX: ")
    allowed = LIMITS.max_body + LIMITS.max_header - len(b"0\r\nX: ")
    for _ in range(allowed - 1):
        handshake.receive(b"a")
    with pytest.raises(HandshakeRejected):
        handshake.receive(b"a")


def test_item_26_first_frame():
    """Item 26: what comes behind the 101 is left over, once, wherever it is cut."""
    octets = ACCEPTED["26-frame"]
    for cut in range(len(octets) + 1):
        assert outcome(octets[:cut], octets[cut:]) == (101, None, b"\x81\x02hi")


ALL = {**ACCEPTED, **INVALID, **{f"rejected-{name}": v[0] for name, v in REJECTED.items()}}


@pytest.mark.parametrize("octets", ALL.values(), ids=ALL)
def test_cuts_change_nothing(octets):
    """Every cut in two, and single octets, come to the same."""
    whole = outcome(octets)
    assert outcome(*(bytes([octet]) for octet in octets)) == whole
    for cut in range(len(octets)):
        assert outcome(octets[:cut], octets[cut:]) == whole


def websockets_accepts(octets):
    """Whether the websockets library would open a connection."""
    uri = websockets.uri.parse_uri("ws://a/")
    client = websockets.client.ClientProtocol(uri, subprotocols=["chat", "superchat"])
    client.key = "dGhlIHNhbXBsZSBub25jZQ=="
    client.send_request(client.connect())
    client.receive_data(octets)
    return client.handshake_exc is None and client.state is websockets.protocol.State.OPEN


# What triows accepts and websockets does not, and why.
MORE_LENIENT = {
    "no-space-behind-status": "such servers exist, and llhttp lets them through",
}


@pytest.mark.parametrize("octets", ALL.values(), ids=ALL)
def test_not_more_lenient_than_websockets(request, octets):
    """What triows accepts, websockets accepts, or it is said why not."""
    is_more_lenient = outcome(octets)[0] == 101 and not websockets_accepts(octets)
    assert is_more_lenient == (request.node.callspec.id in MORE_LENIENT)

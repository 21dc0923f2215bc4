"""RFC 6455 §4.2, the server's side, over octets: what Autobahn does not ask.

The numbers are those of the conformance list. To refuse is to answer 4xx or 505, never 101.
"""

from itertools import pairwise

import pytest
import websockets.http11
import websockets.server

from triows._engine import HandshakeRefused, ServerHandshake
from triows._options import Limits

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
BASE = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
SMALL = Limits(max_request_line=64, max_header=256, max_header_fields=8)


def opening(line="GET /chat HTTP/1.1", *extra, **changed):
    """Write an opening handshake; *changed* replaces or drops fields, *extra* adds lines."""
    fields = dict(BASE)
    for name, value in changed.items():
        fields[name.replace("_", "-")] = value
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join([*lines, *extra, "", ""]).encode("iso-8859-1")


def raw(*lines):
    """Write an opening handshake with *lines* between its own."""
    return opening().replace(b"Upgrade: websocket\r\n", b"Upgrade: websocket\r\n" + b"".join(lines))


def answer(*pieces, limits=None, **terms):
    """Feed *pieces*; give the first 12 octets of the answer, and what is left over."""
    handshake = ServerHandshake(limits or Limits(), **terms)
    for index, piece in enumerate(pieces):
        try:
            request = handshake.receive(piece)
        except HandshakeRefused as refused:
            return refused.response.to_octets(), b""
        if request is not None:
            if handshake.refusal is not None:
                return handshake.refuse(handshake.refusal), b""
            rest = b"".join(pieces[index + 1 :])
            return handshake.accept(), handshake.leftover + rest
    return b"", b""


def status(*pieces, limits=None, **terms):
    """Feed *pieces*; give the status of the answer, 0 for none yet."""
    octets, _ = answer(*pieces, limits=limits, **terms)
    return int(octets[9:12] or b"0")


ACCEPTED = {
    "01-sample": opening(),
    "02-lower-case-names": opening().replace(b"Host", b"host").replace(b"Sec-", b"sec-"),
    "02-upper-case-tokens": opening(Upgrade="WEBSOCKET", Connection="UPGRADE"),
    "02-connection-list": opening(Connection="keep-alive, Upgrade"),
    "02-connection-repeated": opening("GET / HTTP/1.1", "Connection: keep-alive"),
    "02-upgrade-list": opening(Upgrade="h2c, websocket"),
    "02-no-space": opening().replace(b": ", b":"),
    "02-more-space": opening().replace(b"13\r\n", b"13 \t\r\n").replace(b": ", b": \t "),
    "05-key-with-pad-bits": opening(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZR=="),
    "09-host-port": opening(Host="example.com:8080"),
    "09-host-ipv6": opening(Host="[::1]:8080"),
    "11-content-length-0": opening("GET / HTTP/1.1", "Content-Length: 0"),
    "16-pipelined": opening() + b"\x81\x80\0\0\0\0",
    "16-pipelined-http": opening() + b"GET / HTTP/1.1\r\n\r\n",
    "17-absolute-form": opening("GET http://server.example.com/chat?a=b HTTP/1.1"),
    "17-absolute-form-ws": opening("GET WS://server.example.com HTTP/1.1"),
    "18-unknown-extension": opening(Sec_WebSocket_Extensions='foo; bar="baz", x-y'),
    "18-unknown-subprotocol": opening(Sec_WebSocket_Protocol="foo, bar"),
}

REFUSED = {
    "03-upgrade-missing": (opening(Upgrade=None), {426}),
    "03-upgrade-h2c": (opening(Upgrade="h2c"), {426}),
    "03-upgrade-websocketx": (opening(Upgrade="websocketx"), {426}),
    "04-connection-missing": (opening(Connection=None), {400}),
    "04-connection-keep-alive": (opening(Connection="keep-alive"), {400}),
    "04-connection-not-upgrade": (opening(Connection="not-upgrade"), {400}),
    "05-key-missing": (opening(Sec_WebSocket_Key=None), {400}),
    "05-key-empty": (opening(Sec_WebSocket_Key=""), {400}),
    "05-key-not-base64": (opening(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j*Q=="), {400}),
    "05-key-url-base64": (opening(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25j_Q=="), {400}),
    "05-key-unpadded": (opening(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ"), {400}),
    "05-key-15-octets": (opening(Sec_WebSocket_Key="MDEyMzQ1Njc4OWFiY2Rl"), {400}),
    "05-key-17-octets": (opening(Sec_WebSocket_Key="MDEyMzQ1Njc4OWFiY2RlZmc="), {400}),
    "05-key-twice": (raw(f"Sec-WebSocket-Key: {KEY}\r\n".encode()), {400}),
    "06-version-missing": (opening(Sec_WebSocket_Version=None), {400}),
    "06-version-13.0": (opening(Sec_WebSocket_Version="13.0"), {400}),
    "06-version-list": (opening(Sec_WebSocket_Version="8, 13"), {400}),
    "06-version-twice": (raw(b"Sec-WebSocket-Version: 13\r\n"), {400}),
    "06-version-8": (opening(Sec_WebSocket_Version="8"), {426}),
    "07-post": (opening("POST /chat HTTP/1.1"), {405}),
    "07-options": (opening("OPTIONS * HTTP/1.1"), {405}),
    "07-connect": (opening("CONNECT example.com:80 HTTP/1.1"), {405}),
    "07-head": (opening("HEAD /chat HTTP/1.1"), {405}),
    "07-lower-case": (opening("get /chat HTTP/1.1"), {405}),
    "07-unknown": (opening("FETCH /chat HTTP/1.1"), {405}),
    "08-http-1.0": (opening("GET /chat HTTP/1.0"), {400}),
    "08-http-0.9": (opening("GET /chat"), {400}),
    "08-http-1.2": (opening("GET /chat HTTP/1.2"), {505}),
    "08-http-2.0": (opening("GET /chat HTTP/2.0"), {505}),
    "08-http-2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {505}),
    "08-rtsp": (opening("DESCRIBE /chat RTSP/1.0"), {400}),
    "09-host-missing": (opening(Host=None), {400}),
    "09-host-twice": (raw(b"Host: server.example.com\r\n"), {400}),
    "09-host-empty": (opening(Host=""), {400}),
    "09-host-space": (opening(Host="a b"), {400}),
    "09-host-slash": (opening(Host="a/b"), {400}),
    "09-host-user": (opening(Host="user@a"), {400}),
    "09-host-list": (opening(Host="a,b"), {400}),
    "09-host-port": (opening(Host="a:65536"), {400}),
    "09-host-bracket": (opening(Host="[::1"), {400}),
    "09-host-not-ipv6": (opening(Host="[1.2.3]"), {400}),
    "10-space-before-colon": (raw(b"X : y\r\n"), {400}),
    "10-no-colon": (raw(b"X\r\n"), {400}),
    "10-no-name": (raw(b": y\r\n"), {400}),
    "10-nul": (raw(b"X: a\0b\r\n"), {400}),
    "10-nul-in-name": (raw(b"X\0: a\r\n"), {400}),
    "10-control": (raw(b"X: a\x01b\r\n"), {400}),
    "10-bare-cr": (raw(b"X: a\rb\r\n"), {400}),
    "10-bare-cr-in-line": (b"GET /\r HTTP/1.1\r\n" + opening(), {400}),
    "10-bare-lf": (raw(b"X: a\n"), {400}),
    "10-bare-lf-everywhere": (opening().replace(b"\r\n", b"\n"), {400}),
    "10-bare-lf-at-the-end": (opening()[:-2] + b"\n", {400}),
    "10-obs-fold": (raw(b"X: a\r\n b\r\n"), {400}),
    "10-space-before-first-field": (opening().replace(b"Host", b" Host"), {400}),
    "10-non-ascii-name": (raw("Ä: b\r\n".encode()), {400}),
    "10-space-in-target": (opening("GET /a b HTTP/1.1"), {400}),
    "10-two-spaces": (opening("GET  /chat HTTP/1.1"), {400}),
    "10-two-spaces-behind": (opening("GET /chat  HTTP/1.1"), {400}),
    "10-space-at-line-end": (opening("GET /chat HTTP/1.1 "), {400}),
    "10-blank-line-before": (b"\r\n" + opening(), {400}),
    "10-fragment": (opening("GET /chat#top HTTP/1.1"), {400}),
    "10-asterisk-form": (opening("GET * HTTP/1.1"), {400}),
    "10-relative-target": (opening("GET chat HTTP/1.1"), {400}),
    "10-foreign-scheme": (opening("GET ftp://a/b HTTP/1.1"), {400}),
    "10-absolute-user": (opening("GET http://u@a/b HTTP/1.1"), {400}),
    "10-absolute-no-host": (opening("GET http:///b HTTP/1.1"), {400}),
    "10-non-ascii-target": (opening("GET /\xe4 HTTP/1.1"), {400}),
    "11-content-length": (opening("GET / HTTP/1.1", "Content-Length: 5") + b"hello", {400}),
    "11-content-length-text": (opening("GET / HTTP/1.1", "Content-Length: +0"), {400}),
    "11-content-length-twice": (raw(b"Content-Length: 0\r\n" * 2), {400}),
    "11-chunked": (opening("GET / HTTP/1.1", "Transfer-Encoding: chunked") + b"0\r\n\r\n", {400}),
    "11-transfer-encoding": (opening("GET / HTTP/1.1", "Transfer-Encoding: identity"), {400}),
    "11-plain-body": (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", {400}),
    "13-tls": (bytes.fromhex("16030100f8010000f40303") + bytes(32), {400}),
    "13-junk": (bytes(range(128, 256)), {400}),
    "13-nul": (bytes(64), {400}),
    "13-response": (b"HTTP/1.1 200 OK\r\n\r\n", {400, 405}),
    "18-extension-malformed": (opening(Sec_WebSocket_Extensions="foo;; bar"), {400}),
    "18-extension-empty": (opening(Sec_WebSocket_Extensions=""), {400}),
    "18-subprotocol-malformed": (opening(Sec_WebSocket_Protocol="foo bar"), {400}),
    "18-subprotocol-empty": (opening(Sec_WebSocket_Protocol=""), {400}),
    "18-subprotocol-twice": (opening(Sec_WebSocket_Protocol="foo, foo"), {400}),
    "origin-twice": (raw(b"Origin: http://a\r\n" * 2), {400}),
}

SMALL_LIMITS = {
    "12-line-at-limit": (opening(f"GET /{'a' * 50} HTTP/1.1"), {101}),
    "12-line-over-limit": (opening(f"GET /{'a' * 51} HTTP/1.1"), {414}),
    "12-header-at-limit": (raw(b"X: %s\r\n" % (b"a" * 112)), {101}),
    "12-header-over-limit": (raw(b"X: %s\r\n" % (b"a" * 113)), {431}),
    "12-fields-at-limit": (raw(b"X:y\r\n" * 3), {101}),
    "12-fields-over-limit": (raw(b"X:y\r\n" * 4), {431}),
    "12-bare-cr-first": (raw(b"X: a\rb%s\r\n" % (b"a" * 102)), {400}),
    "12-bare-cr-later": (raw(b"X: %s\rb\r\n" % (b"a" * 300)), {431}),
    "12-line-bare-cr": (opening(f"GET /{'a' * 50} HTTP/1.1\rx"), {414}),
    "12-cr-for-blank-line": (raw(b"X:y\r\n" * 3)[:-1] + b"x: y\r\n\r\n", {431}),
}


def of_item(number, table=REFUSED):
    """Parametrise over the vectors of one item."""
    vectors = {name: vector for name, vector in table.items() if name.startswith(f"{number:02}-")}
    assert vectors
    return pytest.mark.parametrize("vector", vectors.values(), ids=vectors)


def test_item_01_sample_key():
    """Item 1: the RFC's sample key gives the exact Accept, and nothing unrequested comes."""
    octets, _ = answer(opening(), subprotocols=["chat"])
    assert octets == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
    )


@of_item(2, ACCEPTED)
def test_item_02_case_and_lists(vector):
    """Item 2: names and tokens are case-insensitive; Connection may be a list or repeated."""
    assert status(vector) == 101


@of_item(3)
def test_item_03_upgrade(vector):
    """Item 3: without an Upgrade to websocket the answer says what is required."""
    octets, _ = answer(vector[0])
    assert octets.startswith(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n")


@of_item(4)
def test_item_04_connection(vector):
    """Item 4: Connection must name Upgrade."""
    assert status(vector[0]) in vector[1]


@of_item(5)
def test_item_05_key(vector):
    """Item 5: the key is there once, and is sixteen octets in base64."""
    assert status(vector[0]) in vector[1]


@of_item(6)
def test_item_06_version(vector):
    """Item 6: the version is there once, and is 13."""
    assert status(vector[0]) in vector[1]


def test_item_06_version_8_learns_of_13():
    """Item 6: a client of an old draft is told the version and the protocol to upgrade to."""
    octets, _ = answer(REFUSED["06-version-8"][0])
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in octets
    assert b"\r\nUpgrade: websocket\r\n" in octets


@of_item(7)
def test_item_07_method(vector):
    """Item 7: a WebSocket is opened with GET, in capitals."""
    assert status(vector[0]) in vector[1]


def test_item_07_post_learns_of_get():
    """Item 7: a 405 says which method is allowed."""
    octets, _ = answer(REFUSED["07-post"][0])
    assert b"\r\nAllow: GET" in octets


@of_item(8)
def test_item_08_http_version(vector):
    """Item 8: HTTP other than 1.1 is refused."""
    assert status(vector[0]) in vector[1]


@of_item(9)
def test_item_09_host(vector):
    """Item 9: Host is there once, and is a host."""
    assert status(vector[0]) in vector[1]


@of_item(9, ACCEPTED)
def test_item_09_good_host(vector):
    """Item 9: a port or an IPv6 address in brackets is fine."""
    assert status(vector) == 101


@of_item(10)
def test_item_10_malformed(vector):
    """Item 10: HTTP that is malformed is refused, however little."""
    assert status(vector[0]) in vector[1]


@of_item(11)
def test_item_11_body(vector):
    """Item 11: a request with a body is refused, and its body never read as frames."""
    octets, leftover = answer(vector[0])
    assert int(octets[9:12]) in vector[1]
    assert leftover == b""


@of_item(12, SMALL_LIMITS)
def test_item_12_limits(vector):
    """Item 12: the limits hold, at the limit and one over."""
    assert status(vector[0], limits=SMALL) in vector[1]


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"GET /" + b"a" * 65_536, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 65_536, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X:" + b"\r\n" * 10_000, 400),
    ],
    ids=["request-line", "header", "fields", "blank-lines"],
)
def test_item_12_default_limits(octets, code):
    """Item 12: a head without end is refused by the default limits."""
    assert status(octets) == code


@pytest.mark.parametrize(
    ("start", "filler", "allowed"),
    [
        (b"GET /", b"a", 64),
        (b"GET / HTTP/1.1\r\nX: ", b"a", 16 + 256),
        (b"GET / HTTP/1.1\r\n", b"X:y\r\n", 16 + 8 * 5),
    ],
    ids=["request-line", "header", "fields"],
)
def test_item_12_as_soon_as_crossed(start, filler, allowed):
    """Item 12: the refusal comes with the very octet that crosses the limit."""
    octets = start + filler * 300
    handshake = ServerHandshake(SMALL)
    for i in range(allowed):
        assert handshake.receive(octets[i : i + 1]) is None
    with pytest.raises(HandshakeRefused):
        handshake.receive(octets[allowed : allowed + 1])


@of_item(13)
def test_item_13_junk(vector):
    """Item 13: TLS and other noise is refused at once, without waiting for a line to end."""
    assert status(vector[0][:5]) in vector[1]


def test_item_14_unfinished():
    """Item 14: an unfinished head gives no answer, so that the deadline can end it."""
    octets = opening()
    assert {status(octets[:end]) for end in range(len(octets))} == {0}


def test_item_15_octet_by_octet():
    """Item 15: a handshake that comes octet by octet is accepted."""
    assert status(*(bytes([octet]) for octet in opening())) == 101


@of_item(16, ACCEPTED)
def test_item_16_pipelined(vector):
    """Item 16: what comes behind the head is left over, once, wherever it is cut."""
    expected = vector[len(opening()) :]
    for cut in range(len(vector) + 1):
        assert answer(vector[:cut], vector[cut:])[1] == expected


@of_item(17, ACCEPTED)
def test_item_17_absolute_form(vector):
    """Item 17: a target in absolute form is accepted."""
    assert status(vector) == 101


@of_item(18, ACCEPTED)
def test_item_18_unknown(vector):
    """Item 18: an unknown extension or subprotocol is not echoed."""
    octets, _ = answer(vector, subprotocols=["chat"])
    assert octets.startswith(b"HTTP/1.1 101")
    assert b"Sec-WebSocket-Protocol" not in octets
    assert b"Sec-WebSocket-Extensions" not in octets


@of_item(18)
def test_item_18_malformed(vector):
    """Item 18: a malformed list of extensions or subprotocols is refused."""
    assert status(vector[0]) in vector[1]


@pytest.mark.parametrize("vector", REFUSED.values(), ids=REFUSED)
def test_item_19_framed(vector):
    """Item 19: every refusal is framed and announces that the connection closes."""
    octets, _ = answer(vector[0])
    head, _, body = octets.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert b"Connection: close" in head.split(b"\r\n")
    assert int(octets[9:12]) in vector[1]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://example.com", 101),
        ("HTTP://EXAMPLE.com", 101),
        ("http://example.com.evil", 403),
        ("http://example.co", 403),
        ("https://example.com", 403),
        ("http://example.com:8080", 403),
        ("null", 403),
        ("", 403),
        ("http://127.0.0.1", 403),
        ("http://[::1]", 403),
        (None, 403),
    ],
)
def test_origin(origin, expected):
    """An Origin that is not in the allow-list, or none where none is not, gives 403."""
    octets = opening(Origin=origin)
    assert status(octets, origins={"http://example.com"}) == expected


def test_no_origin_may_be_allowed():
    """None in the allow-list lets in what is no browser, and no other."""
    assert status(opening(), origins={None}) == 101
    assert status(opening(Origin="null"), origins={None}) == 403


ALL = {
    **{name: (octets, {101}, Limits()) for name, octets in ACCEPTED.items()},
    **{name: (*vector, Limits()) for name, vector in REFUSED.items()},
    **{name: (*vector, SMALL) for name, vector in SMALL_LIMITS.items()},
}


@pytest.mark.parametrize(("octets", "codes", "limits"), ALL.values(), ids=ALL)
def test_cuts_change_nothing(octets, codes, limits):
    """Every cut in two, and single octets, give the same answer and leave the same over."""
    whole = answer(octets, limits=limits)
    assert int(whole[0][9:12]) in codes
    assert answer(*(bytes([octet]) for octet in octets), limits=limits) == whole
    for cut in range(1, len(octets)):
        assert answer(octets[:cut], octets[cut:], limits=limits) == whole


def test_cuts_in_three_change_nothing():
    """Every cut in three pieces of a request with a limit's worth of fields is accepted."""
    octets = raw(b"X:y\r\n" * 3) + b"!"
    for middle in range(2, len(octets), 7):
        for cuts in [(1, middle), (middle - 1, middle), (middle, len(octets) - 2)]:
            edges = [0, *cuts, len(octets)]
            pieces = [octets[start:stop] for start, stop in pairwise(edges)]
            assert answer(*pieces, limits=SMALL)[1] == b"!"


# What triows accepts and websockets does not, and why.
MORE_LENIENT = {
    "02-upgrade-list": "RFC 9110 §7.8 lets a client offer several protocols",
}


def websockets_accepts(octets):
    """Whether the websockets library would answer 101."""
    server = websockets.server.ServerProtocol()
    server.receive_data(octets)
    requests = [e for e in server.events_received() if isinstance(e, websockets.http11.Request)]
    return bool(requests) and server.accept(requests[0]).status_code == 101


@pytest.mark.parametrize(("octets", "codes", "limits"), ALL.values(), ids=ALL)
def test_not_more_lenient_than_websockets(request, octets, codes, limits):
    """What triows accepts, websockets accepts, or it is said why not."""
    if status(octets, limits=limits) == 101 and not websockets_accepts(octets):
        assert request.node.callspec.id in MORE_LENIENT
    else:
        assert request.node.callspec.id not in MORE_LENIENT

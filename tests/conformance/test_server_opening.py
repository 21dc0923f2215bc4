"""What a server makes of an opening handshake (RFC 6455 §4.2; conformance items 1-19).

Refused means a 4xx (505 where HTTP says so), which is framed or ends with the
connection: never 101, and never a 5xx that says that the server is at fault.
"""

import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import (
    BINARY,
    KEY,
    PING,
    PONG,
    SAMPLE_ACCEPT,
    Answer,
    Frame,
    build_frame,
    build_request,
)
from tests.conftest import Serve, Served

pytestmark = [pytest.mark.usefixtures("no_tracebacks"), pytest.mark.opening]


async def refuse(served: Served, request: bytes, *statuses: int) -> Answer:
    """Send *request*; the answer must have one of *statuses*, and the server must live."""
    peer = await served.open()
    await peer.send(request)
    answer = await peer.receive_answer()
    assert answer.status in statuses, answer
    if not answer.is_framed:
        await peer.receive_end()
    await (await served.connect()).expect_echo()
    return answer


async def test_item_1_the_sample_key_gives_the_sample_accept(serve: Serve):
    """The RFC's key gets the RFC's answer, and nothing that was not asked for."""
    _, answer = await (await serve()).shake_hands()

    assert answer.all("Sec-WebSocket-Accept") == [SAMPLE_ACCEPT]
    assert not answer.all("Sec-WebSocket-Protocol")
    assert not answer.all("Sec-WebSocket-Extensions")


@pytest.mark.parametrize(
    "request_",
    [
        build_request().replace(b"Upgrade: websocket", b"uPGRADE: WebSocket"),
        build_request().replace(b"Sec-WebSocket-", b"sec-websocket-"),
        build_request().replace(b"Host", b"HOST"),
        build_request(connection=b"upgrade"),
        build_request(connection=b"keep-alive, Upgrade"),
        build_request(connection=b"keep-alive,UPGRADE"),
        build_request(b"GET / HTTP/1.1", (b"Connection", b"Upgrade"), connection=b"keep-alive"),
    ],
    ids=["upgrade", "names", "host", "token", "list", "tight list", "repeated"],
)
async def test_item_2_names_and_tokens_are_case_insensitive(serve: Serve, request_: bytes):
    """Field names and tokens have no case, and Connection is a list."""
    await (await (await serve()).connect(request_)).expect_echo()


@pytest.mark.parametrize("upgrade", [None, b"h2c", b"websocketx", b"", b"web socket"])
async def test_item_3_upgrade_must_be_websocket(serve: Serve, upgrade: bytes | None):
    """Without Upgrade, or with another protocol in it, there is no WebSocket."""
    request = (
        build_request(without=[b"Upgrade"]) if upgrade is None else build_request(upgrade=upgrade)
    )
    await refuse(await serve(), request, 400, 426)


@pytest.mark.parametrize("connection", [None, b"keep-alive", b"not-upgrade", b"upgrade-not", b""])
async def test_item_4_connection_must_hold_upgrade(serve: Serve, connection: bytes | None):
    """Connection has to name Upgrade as a token of its own."""
    request = (
        build_request(without=[b"Connection"])
        if connection is None
        else build_request(connection=connection)
    )
    await refuse(await serve(), request, 400, 426)


@pytest.mark.parametrize(
    "request_",
    [
        build_request(without=[b"Sec-WebSocket-Key"]),
        build_request(sec_websocket_key=b""),
        build_request(sec_websocket_key=b"not base64 at all!!!"),
        build_request(sec_websocket_key=b"dGhlIHNhbXBsZSBub25jZQ"),
        build_request(sec_websocket_key=b"AAAAAAAAAAAAAAAAAAAA"),
        build_request(sec_websocket_key=b"AAAAAAAAAAAAAAAAAAAAAAA="),
        build_request(b"GET / HTTP/1.1", (b"Sec-WebSocket-Key", KEY)),
        build_request(b"GET / HTTP/1.1", (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA==")),
    ],
    ids=["missing", "empty", "junk", "unpadded", "15 octets", "17 octets", "twice", "two"],
)
async def test_item_5_the_key_must_be_16_octets_once(serve: Serve, request_: bytes):
    """The key is one field that holds 16 octets in base64."""
    await refuse(await serve(), request_, 400)


@pytest.mark.parametrize(
    "request_",
    [
        build_request(without=[b"Sec-WebSocket-Version"]),
        build_request(sec_websocket_version=b"13.0"),
        build_request(sec_websocket_version=b""),
        build_request(sec_websocket_version=b"013"),
        build_request(b"GET / HTTP/1.1", (b"Sec-WebSocket-Version", b"13")),
        build_request(b"GET / HTTP/1.1", (b"Sec-WebSocket-Version", b"8")),
    ],
    ids=["missing", "13.0", "empty", "013", "twice", "13 and 8"],
)
async def test_item_6_the_version_must_be_13_once(serve: Serve, request_: bytes):
    """Anything but a single 13 is refused."""
    await refuse(await serve(), request_, 400, 426)


@pytest.mark.parametrize("version", [b"8", b"7", b"0", b"14", b"255"])
async def test_item_6_another_version_is_told_which_we_speak(serve: Serve, version: bytes):
    """A 426 says 13, and what to upgrade to (§4.4)."""
    answer = await refuse(await serve(), build_request(sec_websocket_version=version), 426)

    assert answer.all("Sec-WebSocket-Version") == ["13"]
    assert [value.lower() for value in answer.all("Upgrade")] == ["websocket"]


@pytest.mark.parametrize("method", [b"POST", b"get", b"HEAD", b"OPTIONS", b"DELETE", b"GETS"])
async def test_item_7_the_method_must_be_get(serve: Serve, method: bytes):
    """Only GET opens a WebSocket, and methods have a case."""
    await refuse(await serve(), build_request(method + b" / HTTP/1.1"), 400, 405, 501)


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1", b"http/1.1"])
async def test_item_8_the_version_must_be_http_1_1(serve: Serve, version: bytes):
    """Neither older nor newer versions of HTTP do."""
    await refuse(await serve(), build_request(b"GET / " + version), 400, 505)


@pytest.mark.parametrize(
    "request_",
    [
        build_request(without=[b"Host"]),
        build_request(b"GET / HTTP/1.1", (b"Host", b"server.example.com")),
        build_request(b"GET / HTTP/1.1", (b"Host", b"other.example.com")),
    ],
    ids=["missing", "twice", "two"],
)
async def test_item_9_host_must_stand_once(serve: Serve, request_: bytes):
    """A request without Host, or with several, is malformed (RFC 9112 §3.2)."""
    await refuse(await serve(), request_, 400)


@pytest.mark.parametrize(
    "request_",
    [
        build_request().replace(b"Upgrade:", b"Upgrade :"),
        build_request().replace(b"Connection: Upgrade", b"Connection Upgrade"),
        build_request(b"GET / HTTP/1.1", (b"X", b"a\0b")),
        build_request(b"GET / HTTP/1.1", (b"X\0Y", b"a")),
        build_request(b"GET / HTTP/1.1", (b"X", b"a\rb")),
        build_request(b"GET / HTTP/1.1", (b"X", b"a\r\n folded")),
        build_request(b"GET / HTTP/1.1", (b"X", b"a\r\n\tfolded")),
        build_request(b"GET /a b HTTP/1.1"),
        build_request(b"GET  HTTP/1.1"),
        build_request(b"GET / HTTP/1.1", (b"", b"nameless")),
        build_request(b"GET / HTTP/1.1", (b"X(Y)", b"a")),
        build_request().replace(b"\r\n", b"\n"),
        build_request().replace(b"Upgrade: websocket\r\n", b"Upgrade: websocket\n"),
    ],
    ids=[
        *["space before colon", "no colon", "NUL in value", "NUL in name", "bare CR"],
        *["obs-fold", "obs-fold tab", "space in target", "no target", "no name"],
        *["bad name", "bare LF", "one bare LF"],
    ],
)
async def test_item_10_malformed_http_is_refused(serve: Serve, request_: bytes):
    """What RFC 9112 does not allow gets a 400, whatever else it asks for."""
    await refuse(await serve(), request_, 400)


@pytest.mark.parametrize(
    "field",
    [
        (b"Content-Length", b"11"),
        (b"Content-Length", b"0x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Transfer-Encoding", b"identity"),
    ],
    ids=["length", "bad length", "chunked", "identity"],
)
async def test_item_11_a_body_is_refused_and_never_parsed_as_frames(
    serve: Serve, field: tuple[bytes, bytes]
):
    """A request with a body opens nothing, and the body is not taken for frames."""
    peer = await (await serve()).open()
    ping = build_frame(PING, b"smugg")
    await peer.send(build_request(b"GET / HTTP/1.1", field) + ping)

    answer = await peer.receive_answer()
    assert answer.status in {400, 413, 501}
    rest = await peer.receive_end()
    assert b"smugg" not in rest


async def refuse_as_soon_as(served: Served, octets: bytes, status: int) -> None:
    """Send *octets* of a head that is not whole: they must suffice to be refused."""
    peer = await served.open()

    async def push() -> None:
        try:
            for start in range(0, len(octets), 4096):
                await peer.send(octets[start : start + 4096])
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        answer = await peer.receive_answer()
        assert answer.status == status, answer
        await peer.receive_end()


async def test_item_12_a_long_request_line_is_refused(serve: Serve):
    """64 KiB of target get a 414, before the line has ended."""
    await refuse_as_soon_as(await serve(), b"GET /" + b"a" * 65_536, 414)


async def test_item_12_a_long_field_is_refused(serve: Serve):
    """64 KiB in one field get a 431, before the field has ended."""
    await refuse_as_soon_as(await serve(), build_request()[:-2] + b"X: " + b"a" * 65_536, 431)


async def test_item_12_many_fields_are_refused(serve: Serve):
    """10,000 fields get a 431, before the head has ended."""
    await refuse_as_soon_as(await serve(), build_request()[:-2] + b"X: 1\r\n" * 10_000, 431)


@pytest.mark.parametrize(
    "junk",
    [
        bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
        b"\0" * 64,
        b"\xff" * 64,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["TLS", "zeros", "ones", "SSH", "HTTP/2"],
)
async def test_item_13_junk_closes_promptly(serve: Serve, junk: bytes):
    """What is no HTTP is not waited on until the handshake's deadline."""
    peer = await (await serve()).open()
    start = trio.current_time()
    await peer.send(junk)

    assert b" 101 " not in await peer.receive_end()
    assert trio.current_time() - start < 2


@pytest.mark.timed
async def test_item_14_slow_headers_time_out(serve: Serve):
    """The deadline holds from the first moment, however diligently octets trickle in."""
    peer = await (await serve(limits=triows.Limits(handshake_timeout=5.0))).open()
    start = trio.current_time()

    async def dribble() -> None:
        try:
            for octet in build_request()[:-1] + b"X" * 100:
                await peer.send(bytes([octet]))
                await trio.sleep(0.5)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        answer = await peer.receive_end()
        nursery.cancel_scope.cancel()

    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    assert 4.9 <= trio.current_time() - start <= 6


@pytest.mark.timed
async def test_item_14_silence_times_out(serve: Serve):
    """A peer that says nothing is dropped when the handshake's time is over."""
    peer = await (await serve(limits=triows.Limits(handshake_timeout=5.0))).open()
    start = trio.current_time()

    await peer.receive_end()
    assert 4.9 <= trio.current_time() - start <= 6


async def test_item_15_octet_by_octet(serve: Serve):
    """A request in single octets opens a WebSocket like a whole one."""
    peer = await (await serve()).open()
    await peer.send_octet_by_octet(build_request())

    answer = await peer.receive_answer()
    assert answer.status == 101
    await peer.expect_echo()


@pytest.mark.opening(False)
@pytest.mark.parametrize("cut", [0, 1, 2, 5, 9, 20])
async def test_item_16_frames_pipelined_with_the_request_are_processed(serve: Serve, cut: int):
    """Frames that arrive with the request, or with its last octets, are parsed once."""
    peer = await (await serve()).open()
    octets = build_request() + build_frame(BINARY, b"early") + build_frame(PING, b"too")
    split = len(build_request()) - 2 + cut
    await peer.send(octets[:split])
    await trio.testing.wait_all_tasks_blocked(0.001)
    await peer.send(octets[split:])

    answer = await peer.receive_answer()
    assert answer.status == 101
    frames = {await peer.receive_frame(), await peer.receive_frame()}
    assert frames == {Frame(BINARY, b"early"), Frame(PONG, b"too")}
    await peer.expect_echo()


async def test_item_17_an_absolute_target_is_accepted(serve: Serve):
    """The target may be a whole URI, as proxies send it (RFC 9112 §3.2.2)."""
    request = build_request(b"GET http://server.example.com/chat?a=1 HTTP/1.1")
    await (await (await serve()).connect(request)).expect_echo()


async def test_item_18_an_unknown_subprotocol_is_not_echoed(serve: Serve):
    """A server that speaks none of the offered subprotocols names none."""
    served = await serve(subprotocols=("chat.v2",))
    request = build_request(b"GET / HTTP/1.1", (b"Sec-WebSocket-Protocol", b"soap, wamp"))
    _, answer = await served.shake_hands(request)

    assert not answer.all("Sec-WebSocket-Protocol")


async def test_item_18_a_known_subprotocol_is_echoed_once(serve: Serve):
    """A subprotocol that both speak is named in the answer, alone."""
    served = await serve(subprotocols=("chat.v2",))
    request = build_request(b"GET / HTTP/1.1", (b"Sec-WebSocket-Protocol", b"soap, chat.v2"))
    _, answer = await served.shake_hands(request)

    assert answer.all("Sec-WebSocket-Protocol") == ["chat.v2"]


@pytest.mark.parametrize("extension", [b"x-unknown", b"x-a; b=c, x-d", b'x-e; f="g"'])
async def test_item_18_an_unknown_extension_is_not_echoed(serve: Serve, extension: bytes):
    """An extension that the server does not know is ignored."""
    field = (b"Sec-WebSocket-Extensions", extension)
    peer = await (await serve()).connect(build_request(b"GET / HTTP/1.1", field))
    await peer.expect_echo()


@pytest.mark.parametrize("extension", [b"", b",", b";", b"a;;b", b'a; b="', b"a b", b"=", b"\xff"])
async def test_item_18_a_malformed_extension_is_refused_or_ignored(serve: Serve, extension: bytes):
    """A malformed field gets a 400, or a WebSocket without extension; never a fault."""
    peer = await (await serve()).open()
    await peer.send(build_request(b"GET / HTTP/1.1", (b"Sec-WebSocket-Extensions", extension)))

    answer = await peer.receive_answer()
    assert answer.status in {101, 400}
    assert not answer.all("Sec-WebSocket-Extensions")


@pytest.mark.parametrize(
    "request_",
    [
        build_request(upgrade=b"h2c"),
        build_request(sec_websocket_version=b"8"),
        build_request(b"POST / HTTP/1.1"),
        build_request(without=[b"Host"]),
    ],
    ids=["upgrade", "version", "method", "host"],
)
async def test_item_19_a_refusal_is_framed_or_ends_the_connection(serve: Serve, request_: bytes):
    """The peer can always tell where a refusal ends, and what follows is no frame."""
    peer = await (await serve()).open()
    await peer.send(request_ + build_frame(PING, b"not yours"))
    await peer.receive_refusal()

    assert b"not yours" not in await peer.receive_end()


@pytest.mark.opening(False)
async def test_a_slow_handshake_delays_no_other(serve: Serve):
    """Connections whose handshake is not done do not hold up one that is prompt."""
    served = await serve()
    for _ in range(50):
        dribbler = await served.open()
        await dribbler.send(build_request()[:40])
    start = trio.current_time()

    await (await served.connect()).expect_echo()
    assert trio.current_time() - start < 2

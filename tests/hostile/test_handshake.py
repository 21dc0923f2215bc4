"""What a server withstands before a WebSocket is open (threat model, items 1-9)."""

import contextlib
import itertools
import logging
import time

import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import (
    BINARY,
    FIELDS,
    PING,
    Frame,
    build_frame,
    build_request,
)
from tests.conftest import Serve, Served

pytestmark = [pytest.mark.usefixtures("no_tracebacks"), pytest.mark.opening]

GET = b"GET / HTTP/1.1"
FRAME = build_frame(BINARY, b"after the head")


async def answer_to(served: Served, request: bytes) -> int:
    """The status that *request* is answered with."""
    peer = await served.open()
    await peer.send(request)
    return (await peer.receive_answer()).status


@pytest.mark.timed
async def test_item_1_a_thousand_dribblers_are_dropped_and_delay_no_one(serve: Serve):
    """Each handshake has one deadline from accept to 101, whoever else is dribbling."""
    served = await serve()
    deadline = trio.current_time() + triows.Limits().handshake_timeout
    dropped: list[float] = []

    async def dribble() -> None:
        peer = await served.open()
        try:
            for octet in itertools.chain(build_request()[:-2], itertools.repeat(ord("x"))):
                await peer.send(bytes([octet]))
                await trio.sleep(1)
        except trio.BrokenResourceError:
            dropped.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(dribble)
        await trio.sleep(deadline / 2 - trio.current_time() / 2)
        start = trio.current_time()
        await (await served.connect()).expect_echo()
        assert trio.current_time() == start

    assert len(dropped) == 1000
    assert deadline - 1 <= min(dropped)
    assert max(dropped) <= deadline + 2


@pytest.mark.parametrize(("size", "status"), [(100, 101), (101, 414)])
async def test_item_2_the_request_line_at_its_limit_and_one_over(
    serve: Serve, size: int, status: int
):
    """A request line may have as many octets as allowed, its end aside; one more gets a 414."""
    served = await serve(limits=triows.Limits(max_request_line=100))
    line = b"GET /" + b"a" * (size - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"
    assert len(line) == size
    assert await answer_to(served, build_request(line)) == status


@pytest.mark.parametrize(("count", "status"), [(20, 101), (21, 431)])
async def test_item_2_the_number_of_fields_at_its_limit_and_one_over(
    serve: Serve, count: int, status: int
):
    """A head may have as many fields as allowed; one more gets a 431."""
    served = await serve(limits=triows.Limits(max_header_fields=20))
    extra = [(b"X-%d" % number, b"1") for number in range(count - len(FIELDS))]
    assert await answer_to(served, build_request(GET, *extra)) == status


@pytest.mark.parametrize(("size", "status"), [(1000, 101), (1001, 431)])
async def test_item_2_the_fields_together_at_their_limit_and_one_over(
    serve: Serve, size: int, status: int
):
    """The field lines with their ends may have as many octets as allowed; one more: 431."""
    served = await serve(limits=triows.Limits(max_header=1000))
    short = len(build_request(GET, (b"X", b""))) - len(GET + b"\r\n") - len(b"\r\n")
    request = build_request(GET, (b"X", b"a" * (size - short)))
    assert await answer_to(served, request) == status


@pytest.mark.timed
@pytest.mark.parametrize(
    "name", [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Cookie"]
)
@pytest.mark.parametrize("unit", [b"a,", b"a;", b'a="', b", ", b"a=b; ", b"\t ,", b"\\"])
async def test_item_3_fields_of_any_shape_take_linear_time(serve: Serve, name: bytes, unit: bytes):
    """Twice the size takes less than two and a half times as long."""
    limits = triows.Limits(max_header=2**22)
    served = await serve(limits=limits, subprotocols=("chat",))

    async def measure(size: int) -> float:
        request = build_request(GET, (name, b"a" + unit * (size // len(unit)) + b"a"))
        peer = await served.open()
        start = time.thread_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, request)
            await peer.receive_answer()
        taken = time.thread_time() - start
        await peer.aclose()
        return taken

    size = 100_000
    ratios = []
    for _ in range(5):
        once = min([await measure(size) for _ in range(3)])
        twice = min([await measure(2 * size) for _ in range(3)])
        ratios.append(twice / once)
        if ratios[-1] < 2.5:
            break
    assert min(ratios) < 2.5, ratios


@pytest.mark.parametrize(
    "origin",
    [
        *[b"https://evil.example", b"null", b"https://192.0.2.1", b"http://good.example"],
        *[b"https://good.example:444", b"https://good.example.evil.example", b"", b"https://"],
        *[b"https://evil.example https://good.example", b"https://good.example/path"],
    ],
)
async def test_item_4_a_foreign_origin_is_forbidden(serve: Serve, origin: bytes):
    """Where origins are listed, any other gets a 403."""
    served = await serve(origins=("https://good.example",))
    assert await answer_to(served, build_request(GET, (b"Origin", origin))) in {400, 403}


async def test_item_4_two_origins_are_refused(serve: Serve):
    """A listed Origin does not let a second one pass."""
    served = await serve(origins=("https://good.example",))
    fields = (b"Origin", b"https://good.example"), (b"Origin", b"https://evil.example")
    assert await answer_to(served, build_request(GET, *fields)) in {400, 403}


async def test_item_4_a_listed_origin_is_welcome(serve: Serve):
    """A listed Origin opens a WebSocket."""
    served = await serve(origins=("https://good.example",))
    assert await answer_to(served, build_request(GET, (b"Origin", b"https://good.example"))) == 101


@pytest.mark.parametrize(
    "host",
    [b"", b"a b", b"a,b", b"user@host", b"host:port", b"host/path", b"[::1", b"a\x00b", b"\xff"],
)
async def test_item_5_a_malformed_host_is_refused(serve: Serve, host: bytes):
    """Host holds a host and perhaps a port, or the request is malformed."""
    assert await answer_to(await serve(), build_request(host=host)) == 400


@pytest.mark.parametrize(
    "host", [b"localhost", b"127.0.0.1:80", b"[::1]:8080", b"xn--bcher-kva.example"]
)
async def test_item_5_a_good_host_is_welcome(serve: Serve, host: bytes):
    """Names, addresses and ports are what Host is for."""
    assert await answer_to(await serve(), build_request(host=host)) == 101


SMUGGLED = build_request().replace(b"/chat", b"/smuggled")


@pytest.mark.parametrize(
    "request_",
    [
        build_request().replace(b"\r\n", b"\n"),
        build_request(GET, (b"X", b"a\0")),
        build_request(GET, (b"X", b"a\r\n b")),
        build_request(GET, (b"Transfer-Encoding", b"chunked")) + b"0\r\n\r\n",
        build_request(GET, (b"Content-Length", b"5")) + b"12345",
        build_request(GET, (b"Content-Length", b"0"), (b"Transfer-Encoding", b"chunked")),
    ],
    ids=["bare LF", "NUL", "obs-fold", "chunked", "length", "both"],
)
async def test_item_5_a_malformed_request_is_never_tunnelled(serve: Serve, request_: bytes):
    """After a 400 the connection closes: what follows is neither request nor frame."""
    peer = await (await serve()).open()
    with contextlib.suppress(trio.BrokenResourceError):
        await peer.send(request_ + SMUGGLED + build_frame(PING, b"smuggled"))
    answer = await peer.receive_answer()
    assert answer.status in {400, 501}
    rest = await peer.receive_end()
    assert b"HTTP/1.1" not in rest
    assert b"smuggled" not in rest


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (build_request(b"POST / HTTP/1.1"), {405}),
        (build_request(sec_websocket_version=b"12"), {426}),
        (build_request(without=[b"Sec-WebSocket-Key"]), {400}),
        (build_request(sec_websocket_key=b"short"), {400}),
        (build_request(without=[b"Upgrade"]), {400, 426}),
        (build_request(upgrade=b"h2c"), {400, 426}),
        (build_request(without=[b"Connection"]), {400}),
        (build_request(connection=b"close"), {400}),
        (build_request(b"GET / HTTP/1.0"), {400, 505}),
    ],
    ids=[
        *["method", "version", "no key", "bad key", "no upgrade", "bad upgrade"],
        *["no connection", "bad connection", "HTTP/1.0"],
    ],
)
async def test_item_6_each_wrong_handshake_has_its_status(
    serve: Serve, request_: bytes, statuses: set[int]
):
    """A client's developer can tell from the status what was wrong."""
    assert await answer_to(await serve(), request_) in statuses


@pytest.mark.timed
@pytest.mark.opening(False)
async def test_item_7_a_head_split_anywhere_is_parsed_once(serve: Serve):
    """Wherever head and frame are cut, there is one 101 and one echo."""
    served = await serve()
    octets = build_request() + FRAME
    for cut in range(1, len(octets)):
        peer = await served.open()
        await peer.send(octets[:cut])
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(octets[cut:])
        assert (await peer.receive_answer()).status == 101, cut
        assert await peer.receive_frame() == Frame(BINARY, b"after the head"), cut
        await peer.expect_nothing()
        await peer.aclose()


@pytest.mark.timed
@pytest.mark.opening(False)
async def test_item_7_octets_after_a_refused_head_are_thrown_away(serve: Serve):
    """Wherever head and frame are cut, a refusal is all that comes."""
    served = await serve()
    octets = build_request(sec_websocket_version=b"12") + FRAME
    for cut in range(1, len(octets), 7):
        peer = await served.open()
        await peer.send(octets[:cut])
        await trio.testing.wait_all_tasks_blocked()
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.send(octets[cut:])
        assert (await peer.receive_answer()).status == 426, cut
        assert await peer.receive_end() == b"", cut


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\rb", "a\nb", "a\0b"])
def test_item_8_no_field_can_smuggle_another(value: str):
    """A line end or NUL in an outgoing field is a ValueError before anything is sent."""
    with pytest.raises(ValueError, match=r"(?i)value|header|field"):
        triows.Accept(headers=[("X-Value", value)])
    with pytest.raises(ValueError, match=r"(?i)value|header|field"):
        triows.HTTPResponse(status=200, headers=[("X-Value", value)], body=b"")


def is_printable(text: str) -> bool:
    """Whether *text* can do nothing to a terminal or a log's line structure."""
    return all(character.isprintable() or character in "\n\t " for character in text)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /\x1b[2J\x07 HTTP/1.1\r\n\r\n",
        b"\x1b]0;owned\x07\r\n\r\n",
        build_request(GET, (b"Origin", b"https://evil\x1b[31m.example")),
        build_request(b"GET /\xe2\x80\xae HTTP/1.1", without=[b"Host"]),
        build_request(host=b"evil\x9b31m"),
        build_request(GET, (b"Sec-WebSocket-Protocol", b"\x1b[2J")),
    ],
)
async def test_item_9_log_lines_hold_no_raw_octets_of_the_peer(
    serve: Serve, request_: bytes, caplog: pytest.LogCaptureFixture
):
    """Even at the most talkative level, what a peer sent is escaped."""
    caplog.set_level(logging.DEBUG)
    peer = await (await serve(origins=("https://good.example",))).open()
    await peer.send(request_)
    await peer.receive_end()

    for record in caplog.records:
        assert is_printable(record.getMessage()), record.getMessage()
        assert "\n" not in record.getMessage()


@pytest.mark.timed
async def test_item_9_bad_handshakes_do_not_flood_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
):
    """A thousand refused handshakes leave a handful of lines at the default level."""
    served = await serve()
    for _ in range(1000):
        peer = await served.open()
        await peer.send(b"junk\r\n\r\n")
        await peer.receive_end()

    assert sum(record.levelno >= logging.WARNING for record in caplog.records) <= 100

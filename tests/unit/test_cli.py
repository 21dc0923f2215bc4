"""The command line: what it prints, what it refuses, how it ends.

Servers are started as processes, as users do; each wait has a deadline.
"""

import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from websockets.sync.client import ClientConnection, connect

import triows
from triows._cli import main

DEADLINE = 60.0  # seconds; a cold cache means compiling first
PROMPTLY = 5.0  # seconds within which a process that was told to end has ended

pytestmark = pytest.mark.timeout(2 * DEADLINE)


class Process:
    """``python -m triows ...`` in a process of its own."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "triows", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def read_line(self) -> str:
        """Return the next line of its output; fails if none comes in time."""
        readable, _, _ = select.select([self._process.stdout], [], [], DEADLINE)
        assert readable, "no output"
        return self._process.stdout.readline().decode()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> tuple[int, str, str]:
        """Return its exit status and the rest of its output and errors."""
        output, errors = self._process.communicate(timeout=timeout)
        return self._process.returncode, output.decode(), errors.decode()

    def end(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator:
    """Start processes that do not outlive the test."""
    started = []

    def start_one(*args: str) -> Process:
        started.append(Process(*args))
        return started[-1]

    yield start_one
    for process in started:
        process.end()


@pytest.fixture
def server(start) -> tuple[Process, str]:
    """A running echo server and its URL."""
    process = start("echo")
    return process, process.read_line().split()[1]


@pytest.fixture
def identity(tmp_path) -> tuple[trustme.CA, Path, Path]:
    """An authority, and the files of a certificate for 127.0.0.1 and its key."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return authority, certificate, key


def converse(connection: ClientConnection) -> None:
    """Check that a text and a binary message come back."""
    for message in ("grüß dich", b"\x00\xff"):
        connection.send(message)
        assert connection.recv(timeout=PROMPTLY) == message


def test_ready_is_one_line_and_the_server_echoes(server) -> None:
    """The first line of output is READY with the URL at which messages come back."""
    process, url = server

    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+", url)
    with connect(url) as connection:
        converse(connection)
    process.signal(signal.SIGTERM)
    assert process.wait() == (0, "", "")


def test_an_ipv6_address_is_bracketed(start) -> None:
    """READY holds a URL, in which an IPv6 address has brackets (RFC 3986 §3.2.2)."""
    if not socket.has_ipv6 or not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("no IPv6 here")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")

    line = start("echo", "--host", "::1").read_line()

    assert re.fullmatch(r"READY ws://\[::1\]:\d+\n", line)
    with connect(line.split()[1]) as connection:
        converse(connection)


def test_a_certificate_makes_it_wss(start, identity) -> None:
    """With --certfile and --keyfile the server speaks TLS and says wss."""
    authority, certificate, key = identity
    line = start("echo", "--certfile", str(certificate), "--keyfile", str(key)).read_line()
    context = ssl.create_default_context()
    authority.configure_trust(context)

    assert line.startswith("READY wss://127.0.0.1:")
    with connect(line.split()[1], ssl=context) as connection:
        converse(connection)


def test_messages_over_the_limit_are_refused(start) -> None:
    """--max-message is a limit in octets: that many pass, one more closes with 1009."""
    url = start("echo", "--max-message", "1000").read_line().split()[1]

    with connect(url) as connection:
        connection.send(bytes(1000))
        assert connection.recv(timeout=PROMPTLY) == bytes(1000)
        connection.send(bytes(1001))
        with pytest.raises(Exception, match="1009"):
            connection.recv(timeout=PROMPTLY)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_gracefully(server, number) -> None:
    """The first signal closes open connections with 1001 and ends with status 0."""
    process, url = server

    with connect(url) as connection:
        converse(connection)
        process.signal(number)
        with pytest.raises(Exception, match="1001"):
            connection.recv(timeout=PROMPTLY)
    assert process.wait(PROMPTLY) == (0, "", "")


def test_a_signal_stops_compilation(start, monkeypatch, tmp_path) -> None:
    """A server that is still compiling ends gracefully, before the next kernel."""
    monkeypatch.setenv("TRIOWS_CACHE_DIR", str(tmp_path))
    process = start("echo")
    deadline = time.monotonic() + DEADLINE
    while not list(tmp_path.glob("*/*")):  # until the first kernel is there
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)

    process.signal(signal.SIGTERM)

    assert process.wait(PROMPTLY) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(server, number) -> None:
    """While a peer keeps the graceful end waiting, a second signal ends the process."""
    process, url = server
    with connect(url, ping_interval=None) as connection:
        converse(connection)
        deaf = socket.create_connection(connection.remote_address)
        deaf.sendall(request(url))
        assert b"101 Switching Protocols" in deaf.recv(4096)
        process.signal(number)
        with pytest.raises(Exception, match="1001"):  # it is on its way out
            connection.recv(timeout=PROMPTLY)

        process.signal(number)
        started = time.monotonic()
        status, _, errors = process.wait(PROMPTLY)

    deaf.close()
    assert (status, errors) == (128 + number, "")
    assert time.monotonic() - started < 1.0


def request(url: str) -> bytes:
    """Build an opening handshake (RFC 6455 §1.2)."""
    return (
        f"GET / HTTP/1.1\r\nHost: {url.removeprefix('ws://')}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def test_a_port_in_use_is_one_line(start) -> None:
    """A port that another process has ends with status 1 and one line that names it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        status, output, errors = start("echo", "--port", port).wait()

    assert (status, output) == (1, "")
    assert re.fullmatch(rf"triows echo: cannot listen on 127.0.0.1 port {port}: .*\n", errors)


def test_a_host_that_is_none_is_one_line(start) -> None:
    """An address that this machine does not have ends with status 1 and one line."""
    status, output, errors = start("echo", "--host", "192.0.2.1").wait()

    assert (status, output) == (1, "")
    assert re.fullmatch(r"triows echo: cannot listen on 192.0.2.1 port 0: .*\n", errors)


def refusal(capsys, *args: str) -> tuple[int, str]:
    """Run the command line in this process; returns its status and its errors."""
    try:
        status = main(args)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert captured.out == ""
    return status, captured.err


def test_a_missing_certificate_is_one_line(capsys, tmp_path) -> None:
    """A certificate file that is not there ends with status 1 and one line."""
    status, errors = refusal(capsys, "echo", "--certfile", str(tmp_path / "absent.pem"))

    assert status == 1
    assert re.fullmatch(
        r"triows echo: cannot use .*/absent.pem: No such file or directory\n", errors
    )


def test_a_certificate_that_is_none_is_one_line(capsys, tmp_path) -> None:
    """A file that holds no certificate ends with status 1 and one line."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")

    status, errors = refusal(capsys, "echo", "--certfile", str(junk))

    assert status == 1
    assert re.fullmatch(r"triows echo: cannot use .*: no certificate chain and .*\n", errors)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["echo", "--api", "callback", "--driver", "stream"], "--api callback: not with --driver"),
        (["echo", "--api", "compiled", "--driver", "stream"], "--api compiled: not with --driver"),
        (["echo", "--api", "compiled", "--certfile", "x"], "--api compiled: not with TLS"),
        (["echo", "--keyfile", "key.pem"], "--keyfile needs --certfile"),
        (["echo", "--port", "65536"], "65536 is not in 0..65535"),
        (["echo", "--port", "-1"], "-1 is not in 0..65535"),
        (["echo", "--max-message", "-1"], "-1 is negative"),
        (["echo", "--max-message", "1e3"], "'1e3' is not a whole number"),
        (["echo", "--port", "http"], "'http' is not a whole number"),
        (["echo", "--driver", "horse"], "horse"),
        (["sing"], "sing"),
        ([], "COMMAND"),
    ],
)
def test_what_does_not_exist_is_refused(capsys, args, words) -> None:
    """What is not understood, or not there yet, ends with status 2 and one line that says so."""
    status, errors = refusal(capsys, *args)

    assert status == 2
    assert words in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("api", ["compiled", "callback"])
@pytest.mark.parametrize("driver", [[], ["--driver", "reactor"]])
def test_the_reactor_ruled_out_is_one_line(capsys, monkeypatch, api, driver) -> None:
    """Under TRIOWS_DRIVER=stream the reactor's APIs end with status 2 and one line."""
    monkeypatch.setenv("TRIOWS_DRIVER", "stream")

    status, errors = refusal(capsys, "echo", "--api", api, *driver)

    assert (status, errors) == (2, "triows echo: TRIOWS_DRIVER=stream rules the reactor out\n")


@pytest.mark.parametrize(
    "options",
    [
        ["compiled"],
        ["compiled", "--threads", "0", "--driver", "reactor"],
        ["compiled", "--threads", "2"],
        ["callback"],
        ["batch"],
        ["channel", "--driver", "reactor"],
    ],
)
def test_the_reactor_echoes(start, options) -> None:
    """The reactor's APIs echo, in Trio's thread or others, and end gracefully."""
    process = start("echo", "--api", *options)
    url = process.read_line().split()[1]

    with connect(url) as connection:
        converse(connection)
        process.signal(signal.SIGTERM)
        with pytest.raises(Exception, match="1001"):
            connection.recv(timeout=PROMPTLY)
    assert process.wait(PROMPTLY) == (0, "", "")


def test_the_stream_driver_goes_on_where_the_reactor_is_ruled_out(start, monkeypatch) -> None:
    """TRIOWS_DRIVER=stream leaves the channel as it is."""
    monkeypatch.setenv("TRIOWS_DRIVER", "stream")

    with connect(start("echo").read_line().split()[1]) as connection:
        converse(connection)


def test_the_version_is_printed(capsys) -> None:
    """--version prints the name and the version, and ends with status 0."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"triows {triows.__version__}\n"


def test_warmup_prints_a_row_for_each_kernel(start, monkeypatch, cold_start) -> None:
    """With --clear every kernel is compiled, though the cache held it; then all are found there."""
    root, first = cold_start
    monkeypatch.setenv("TRIOWS_CACHE_DIR", str(root))
    status, second, errors = start("warmup").wait()
    assert (status, errors) == (0, "")
    for source, output in (("compiler", first), ("cache", second)):
        head, *rows, total, place = output.splitlines()
        assert head.split() == ["kernel", "seconds", "from"]
        assert {row.split()[2] for row in rows} == {source}
        assert float(total.split()[1]) >= max(float(row.split()[1]) for row in rows)
        assert Path(place.removeprefix("cache: ")).parent == root


def test_warmup_without_a_compiler_says_so(start, monkeypatch) -> None:
    """Where numba is switched off there is no table but a line that says why."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")

    status, output, _ = start("warmup").wait()

    assert status == 0
    assert output.startswith("NUMBA_DISABLE_JIT is set")
    assert output.count("\n") == 1

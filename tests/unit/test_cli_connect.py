"""``triows connect``: over pipes, on a terminal, as an echo; and its exit status.

The client is a process, as for its users; the servers are threads of the test, and
those of another library. Each wait has a deadline.
"""

import fcntl
import os
import pty
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from triows._cli._printable import printable, width
from triows._cli._terminal import Terminal

DEADLINE = 60.0  # seconds; a cold cache means compiling first

pytestmark = [
    pytest.mark.timeout(2 * DEADLINE),
    pytest.mark.usefixtures("warm"),
    # The library's threads end with their connections, which a test may cut off.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

Handler = Callable[[ServerConnection], None]


@contextmanager
def serving(handler: Handler, **options: Any) -> Iterator[str]:
    """Run a server in a thread; gives its URL without the scheme."""
    with serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()


def echo(connection: ServerConnection) -> None:
    """Send every message back."""
    for message in connection:
        connection.send(message)


def command(*args: str) -> list[str]:
    """``triows connect`` with *args*."""
    return [sys.executable, "-m", "triows", "connect", *args]


def connect(*args: str, lines: bytes = b"", **environment: str) -> tuple[int, bytes, str]:
    """Run ``triows connect`` over pipes; returns its status, output and errors."""
    done = subprocess.run(
        command(*args),
        input=lines,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr.decode()


# Pipes.


def test_lines_are_sent_and_replies_printed():
    """Each line is a text message, also one without an end; what comes back is printed."""
    with serving(echo) as place:
        status = connect(f"ws://{place}", lines="one\n\ntwö 漢字\nthree".encode())

    assert status == (0, "one\n\ntwö 漢字\nthree\n".encode(), "")


def test_binary():
    """With --binary each line is a binary message; what is binary is printed as it is."""
    kinds = []

    def handle(connection):
        for message in connection:
            kinds.append(type(message))
            connection.send(message)

    with serving(handle) as place:
        status = connect("--binary", f"ws://{place}", lines=b"\xff\x00\ntext\n")

    assert status == (0, b"\xff\x00\ntext\n", "")
    assert kinds == [bytes, bytes]


def test_many_lines():
    """Whatever the number of lines, all come back, in order."""
    lines = b"".join(b"%d\n" % number for number in range(5_000))
    with serving(echo) as place:
        status = connect(f"ws://{place}", lines=lines)

    assert status == (0, lines, "")


def test_the_end_of_input_closes_with_1000():
    """At the end of the input Close 1000 is sent; what comes before the answer is printed."""
    codes = []

    def handle(connection):
        connection.send("hello")
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv()
        codes.append(caught.value.rcvd.code)

    with serving(handle) as place:
        status = connect(f"ws://{place}")

    assert status == (0, b"hello\n", "")
    assert codes == [1000]


def test_input_that_is_no_text():
    """A line that is not UTF-8 is no text: it is said what to do."""
    with serving(echo) as place:
        status, _, errors = connect(f"ws://{place}", lines=b"\xff\n")

    assert status == 1
    assert errors == "triows connect: a line of the input is not UTF-8: use --binary\n"


@pytest.mark.parametrize(("code", "status"), [(1000, 0), (1001, 0), (1008, 1), (4000, 1)])
def test_the_server_closes_first(code, status):
    """The server's Close ends it, though the input goes on; 0 only if it was a clean one."""

    def handle(connection):
        connection.send("bye")
        connection.close(code, "that is\x1b[31m enough")

    with serving(handle) as place:
        process = subprocess.Popen(
            command(f"ws://{place}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.wait(DEADLINE) == status
        output, errors = process.communicate()

    assert output == "bye\n"
    words = f"the connection ended with code {code}: that is\\x1b[31m enough"
    assert errors == (f"triows connect: {words}\n" if status else "")


def test_too_large():
    """A message over --max-message fails the connection; one as large is printed."""
    with serving(lambda connection: connection.send("a" * 10)) as place:
        assert connect("--max-message", "10", f"ws://{place}") == (0, b"a" * 10 + b"\n", "")
        status, _, errors = connect("--max-message", "9", f"ws://{place}")

    assert status == 1
    assert "code 1009" in errors


# What is asked for.


def test_headers_and_subprotocols():
    """--header and --subprotocol go into the request, each as often as given."""

    def handle(connection):
        request = connection.request
        connection.send(f"{request.headers['X-A']} {request.headers['X-B']}")
        connection.send(str(connection.subprotocol))

    options = ["--header", "X-A: 1:2", "--header", "X-B:3"]
    options += ["--subprotocol", "q", "--subprotocol", "p"]
    with serving(handle, subprotocols=["p"]) as place:
        status = connect(*options, f"ws://{place}")

    assert status == (0, b"1:2 3\np\n", "")


@pytest.fixture
def authority():
    """A certificate authority that no one knows."""
    return trustme.CA()


@pytest.fixture
def tls(authority):
    """A server's context with a certificate for 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_tls(tls, authority):
    """A certificate must be good, unless --insecure says that it need not be."""
    with serving(echo, ssl=tls) as place:
        status, _, errors = connect(f"wss://{place}", lines=b"a\n")
        insecure = connect("--insecure", f"wss://{place}", lines=b"a\n")
        with authority.cert_pem.tempfile() as path:
            secure = connect(f"wss://{place}", lines=b"a\n", SSL_CERT_FILE=path)

    assert status == 1
    assert errors == (
        "triows connect: the server's certificate is refused: "
        "unable to get local issuer certificate\n"
    )
    assert insecure == secure == (0, b"a\n", "")


# Echo.


def test_echo():
    """With --echo the input is ignored, and what comes is sent back until the server closes."""
    heard = []

    def handle(connection):
        for message in ("text", b"\xff", "a" * 100_000):
            connection.send(message)
            heard.append(connection.recv() == message)

    with serving(handle) as place:
        status = connect("--echo", f"ws://{place}", lines=b"nobody reads this\n")

    assert status == (0, b"", "")
    assert heard == [True, True, True]


# What goes wrong.


def test_nothing_listens():
    """A connection that is refused is one line, and status 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        status = connect(f"ws://{place}")

    assert status == (1, b"", f"triows connect: cannot connect to {place}: Connection refused\n")


def test_refused():
    """A server that refuses is told with its status."""
    with serving(echo, process_request=lambda c, _: c.respond(403, "no")) as place:
        status, _, errors = connect(f"ws://{place}")

    assert status == 1
    assert re.fullmatch("triows connect: .* status 403\n", errors)


@pytest.mark.parametrize("url", ["http://a/", "ws://a/#b", "ws://u:p@a/"])
def test_bad_urls(url):
    """What is no WebSocket URL is one line, and status 1."""
    status, output, errors = connect(url)

    assert (status, output) == (1, b"")
    assert re.fullmatch("triows connect: .*\n", errors)


@pytest.mark.parametrize("options", [["--header", "x"], ["--max-message", "-1"], []])
def test_arguments_that_are_not_understood(options):
    """What the command line does not understand is one line, and status 2."""
    status, output, errors = connect(*options, *(["ws://a/"] if options else []))

    assert (status, output) == (2, b"")
    assert re.fullmatch("triows connect: .*\n", errors)


def test_closed_standard_files():
    """A closed input is one that has ended, and what goes to a closed output is lost."""
    with serving(echo) as place:
        for line in ("hello\n", ""):
            closed = "<&-" if not line else ">&-"
            done = subprocess.run(
                ["sh", "-c", f'exec "$@" {closed}', "sh", *command(f"ws://{place}")],
                input=line.encode(),
                capture_output=True,
                timeout=DEADLINE,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_server_that_speaks_no_tls():
    """wss:// to a plain server says that it is TLS that failed."""
    with serving(echo) as place:
        status, output, errors = connect(f"wss://{place}")

    assert (status, output) == (1, b"")
    assert re.fullmatch(r"triows connect: TLS failed: [a-z ]+\n", errors)


def test_no_one_reads_the_output():
    """A reader that goes away ends it, in one line."""
    with serving(lambda connection: connection.send("a" * 1_000)) as place:
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            command(f"ws://{place}"),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=DEADLINE,
            check=False,
        )
        os.close(writing)

    assert (done.returncode, done.stderr) == (1, b"triows connect: Broken pipe\n")


# A terminal.


class Person:
    """Someone who sits at a terminal in which ``triows connect`` runs."""

    def __init__(self, *args: str) -> None:
        self._keyboard, terminal = pty.openpty()
        self._seen = ""
        self.process = subprocess.Popen(
            command(*args), stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        )
        self._before = os.dup(terminal)
        os.close(terminal)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._keyboard, keys.encode())

    def see(self, text: str) -> str:
        """Wait for *text* to appear; returns all that appeared up to it."""
        end = time.monotonic() + DEADLINE
        while text not in self._seen:
            readable, _, _ = select.select([self._keyboard], [], [], end - time.monotonic())
            assert readable, self._seen
            self._seen += os.read(self._keyboard, 65_536).decode()
        before, found, self._seen = self._seen.partition(text)
        return before + found

    def leave(self) -> int:
        """Wait for the process to end; returns its status."""
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        """End what is left."""
        self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self._keyboard)
        os.close(self._before)


@pytest.fixture
def sit_down() -> Iterator[Callable[..., Person]]:
    """Start ``triows connect`` in a terminal."""
    people = []

    def start(*args: str) -> Person:
        people.append(Person(*args))
        return people[-1]

    yield start
    for person in people:
        person.close()


def test_a_person_talks_to_a_server(sit_down):
    """Lines are sent and replies shown; Ctrl-D closes with 1000."""
    with serving(echo) as place:
        person = sit_down(f"ws://{place}")
        person.see("connected to")
        person.type("hellö\n")
        person.see("< hellö\r\n")
        person.type("second\n")
        person.see("< second\r\n")
        person.type("\x04")
        person.see("closed with 1000")
        assert person.leave() == 0


def test_a_line_is_edited(sit_down):
    """Backspace, Ctrl-W, Ctrl-U work; cursor keys and other controls do nothing."""
    with serving(echo) as place:
        person = sit_down(f"ws://{place}")
        person.see("connected to")
        person.type("wrong\x15one twoo\x7f three\x17\x1b[A\x1b[1;5D\x1bOP\x1bx\x01\x04five\r")
        person.see("< one two five\r\n")
        person.type("漢\x1b")
        person.type("[D字\n")
        person.see("< 漢字\r\n")


def test_messages_do_not_mix_with_what_is_typed(sit_down):
    """A message that comes while a line is typed appears above it; the line is kept."""
    typed = threading.Event()

    def handle(connection):
        typed.wait(DEADLINE)
        connection.send("interruption")
        assert connection.recv() == "half a line"

    with serving(handle) as place:
        person = sit_down(f"ws://{place}")
        person.see("connected to")
        person.type("half a ")
        person.see("half a ")
        typed.set()
        person.see("\r\x1b[K< interruption\r\n\r\x1b[K> half a ")
        person.type("line\n")
        person.see("closed with 1000")
        assert person.leave() == 0


def test_what_a_server_sends_cannot_drive_the_terminal(sit_down):
    """Control characters are shown escaped, binary messages as octets, cut short."""

    def handle(connection):
        connection.send("\x1b]0;title\x07\x9b31m\u202e two\nlines")
        connection.send(b"\x1b" * 40)

    with serving(handle) as place:
        person = sit_down(f"ws://{place}")
        person.see("< \\x1b]0;title\\x07\\x9b31m\\u202e two\r\n")
        person.see("< (40 octets) " + " ".join(["1b"] * 32) + " ...\r\n")
        assert person.leave() == 0


def test_the_terminal_is_as_before(sit_down):
    """However it ends, the terminal echoes and edits lines again."""
    with serving(lambda connection: connection.close(1011)) as place:
        person = sit_down(f"ws://{place}")
        before = termios.tcgetattr(person._before)
        person.see("code 1011: no reason given")
        assert person.leave() == 1
        assert termios.tcgetattr(person._before) == before


def test_interrupted(sit_down):
    """Ctrl-C says that it goes away, and is status 130."""
    codes = []

    def handle(connection):
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv()
        codes.append(caught.value.rcvd.code)

    with serving(handle) as place:
        person = sit_down(f"ws://{place}")
        person.see("connected to")
        os.kill(person.process.pid, 2)
        person.see("interrupted")
        assert person.leave() == 130

    assert codes == [1001]


def test_a_long_line_shows_its_end():
    """Of a line that does not fit, as much of the end is drawn as does."""
    ours, theirs = pty.openpty()
    rows_and_columns = struct.pack("HHHH", 5, 10, 0, 0)  # and two fields that no one uses
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, rows_and_columns)
    terminal = Terminal(theirs)
    terminal._typed = "abcdefgh漢字"
    terminal._draw()
    drawn = os.read(ours, 100).decode()
    os.close(ours)
    os.close(theirs)

    assert drawn == "\r\x1b[K> fgh漢字"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a漢 é", "a漢 é"), ("a\nb", "a\nb"), ("\x1b\x00\r\t\x85\u200b", r"\x1b\x00\r\t\x85\u200b")],
)
def test_printable(text, expected):
    """Only characters that just show are left as they are, and newlines."""
    assert printable(text) == expected


def test_width():
    """Wide characters take two cells, combining ones none."""
    assert [width(text) for text in ("ab", "漢字", "e\u0301", "")] == [2, 4, 1, 0]


# Through a proxy, and again and again.


def test_through_a_proxy(tmp_path):
    """With --proxy the proxy is asked; one that refuses is said to."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        requests = []

        def refuse():
            taken, _ = proxy.accept()
            with taken:
                requests.append(taken.recv(4096))
                taken.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        place = f"127.0.0.1:{proxy.getsockname()[1]}"
        status, _, errors = connect("--proxy", f"http://u:s3cret@{place}", "ws://server.test/")
        thread.join()

    assert requests[0].startswith(b"CONNECT server.test:80 HTTP/1.1\r\n")
    assert (status, errors) == (1, "triows connect: the proxy refused the tunnel with status 403\n")


def test_reconnecting_sends_each_line_once():
    """With --reconnect lines go on over the next connection when one has ended."""
    connections = []

    def handle(connection):
        connections.append(connection)
        connection.send(f"connection {len(connections)}")
        for message in connection:
            connection.send(message)
            if len(connections) == 1:
                return

    with serving(handle) as place:
        process = subprocess.Popen(
            command("--reconnect", f"ws://{place}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            process.stdin.write(b"one\n")
            process.stdin.flush()
            assert [process.stdout.readline() for _ in range(2)] == [b"connection 1\n", b"one\n"]
            assert process.stderr.readline().endswith(
                b"code 1000: no reason given; connecting again\n"
            )
            output, _ = process.communicate(b"two\nthree\n", timeout=DEADLINE)
        finally:
            process.kill()
            process.communicate()

    assert output == b"connection 2\ntwo\nthree\n"
    assert process.returncode == 0


def test_reconnecting_gives_up_on_what_cannot_heal():
    """A refusal of this client ends it, with one line."""
    with serving(echo, process_request=lambda c, _: c.respond(404, "gone\n")) as place:
        status, _, errors = connect("--reconnect", f"ws://{place}")

    assert status == 1
    assert errors == "triows connect: the server refused the opening handshake with status 404\n"

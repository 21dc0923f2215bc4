"""A handler that notes what it is told, and a loop that calls it, over socket pairs."""

import contextlib

import triows
from tests.unit.test_turn import CLOSE, Pair, close_payload
from triows._kernels import slots as s
from triows._reactor import CallbackLoop

FAILED = (CLOSE, close_payload(1011, b"the handler failed"))
"""The frame that tells a peer that the handler failed."""


class Recorder(triows.Handler):
    """Notes what it is told, and does what the test says."""

    def __init__(self, frame=None, opened=None, closed=None):
        self.events = []
        self.conns = {}
        self.do_frame, self.do_open, self.do_close = frame, opened, closed
        self.depth = 0

    @contextlib.contextmanager
    def alone(self, *event):
        """Note an event, and that no other callback is under way."""
        assert self.depth == 0, "callbacks nest"
        self.depth = 1
        self.events.append(event)
        try:
            yield
        finally:
            self.depth = 0

    def on_open(self, conn):
        """Note it."""
        self.conns[conn.id] = conn
        with self.alone("open", conn.id):
            if self.do_open:
                self.do_open(conn)

    def on_frame(self, conn, payload, opcode):
        """Note it."""
        with self.alone("frame", conn.id, bytes(payload), opcode):
            if self.do_frame:
                self.do_frame(conn, payload, opcode)

    def on_close(self, conn, code, reason):
        """Note it."""
        with self.alone("close", conn.id, code, reason):
            if self.do_close:
                self.do_close(conn, code, reason)

    def of(self, kind):
        """The events of one kind, without its name."""
        return [event[1:] for event in self.events if event[0] == kind]

    @property
    def messages(self):
        """The payloads, in order."""
        return [event[1] for event in self.of("frame")]


class CallbackPair(Pair):
    """A callback loop, and clients that talk to it."""

    def __init__(self, handler, limits=None, keepalive=None, **options):
        self.handler = handler
        self.options = options
        self.reports = []
        super().__init__(handler, limits, keepalive)
        self.loop._registers[s.BUDGET] = 2**60  # interpreted kernels take their time

    def make_loop(self, handler, limits, keepalive):
        """The loop that is tested."""
        return CallbackLoop(handler, limits, keepalive, self.report, **self.options)

    def report(self, what, error):
        """Note what is reported."""
        self.reports.append((what, type(error)))


def echo(conn, _payload, _opcode):
    """Echo."""
    conn.echo()


@contextlib.contextmanager
def starting():
    """Make loops, and close them in the end, when nothing may be left."""
    pairs = []

    def make(*args, **options):
        frame = options.pop("frame", None)
        opened, closed = options.pop("opened", None), options.pop("closed", None)
        handler = args[0] if args else Recorder(frame, opened, closed)
        pairs.append(CallbackPair(handler, *args[1:], **options))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()
        assert pair.register(s.CONNECTIONS) == 0
        assert pair.register(s.QUEUED) == 0
        assert pair.register(s.INCOMPLETE) == 0
        opened = [event[0] for event in pair.handler.of("open")]
        assert sorted(opened) == sorted(event[0] for event in pair.handler.of("close"))
        assert len(set(opened)) == len(opened)

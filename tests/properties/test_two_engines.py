"""A server's and a client's engine, joined by a network that delays and cuts as it likes."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.naive_reception import BINARY, PING, TEXT, build_fragments, build_frame
from triows._engine import ClientEngine, Closed, Failed, Lost, Message, Phase, ServerEngine
from triows._options import KeepAlive, Limits

LIMITS = Limits(message_timeout=60, close_timeout=5)
KEEPALIVE = KeepAlive(interval=20, timeout=10)
OUTCOMES = (Closed, Failed, Lost)

sides = st.sampled_from(["server", "client"])
payloads = st.one_of(st.binary(max_size=10), st.sampled_from([b"p" * 126, b"p" * 70_000]))
texts = st.text("aß漢😀", max_size=5).map(str.encode)


class Side:
    """One engine, and what its test knows of it."""

    def __init__(self, engine):
        self.engine = engine
        self.peer = None
        self.wire = b""  # what it has given to the network, and the peer has not received
        self.messages = []  # that it was told to send
        self.events = []
        self.close = None  # what it was told to close with
        self.taken = 0  # octets that the network took
        self.total_at_close = None

    @property
    def received(self):
        """The messages that came."""
        return [event.payload for event in self.events if isinstance(event, Message)]

    @property
    def outcomes(self):
        """How it ended: once at most."""
        return [event for event in self.events if isinstance(event, OUTCOMES)]

    def note_close(self):
        """Remember how much there was to send when the Close was queued."""
        if self.engine.phase is not Phase.OPEN and self.total_at_close is None:
            self.total_at_close = self.taken + self.engine.outbound.size


class Network(RuleBasedStateMachine):
    """What may happen between two engines, in any order."""

    @initialize()
    def connect(self):
        """Both are open at 0 seconds."""
        self.now = 0.0
        self.server = Side(ServerEngine(limits=LIMITS, keepalive=KEEPALIVE))
        self.client = Side(ClientEngine(limits=LIMITS, keepalive=KEEPALIVE))
        self.server.peer, self.client.peer = self.client, self.server
        self.is_cut = False
        self.was_late = False

    def side(self, name):
        """The side of that name."""
        return getattr(self, name)

    # What the applications do.

    @rule(name=sides, payload=payloads)
    def send_octets(self, name, payload):
        """Send a binary message."""
        side = self.side(name)
        if side.engine.phase is Phase.OPEN:
            side.engine.send(BINARY, payload)
            side.messages.append(payload)

    @rule(name=sides, payload=texts)
    def send_text(self, name, payload):
        """Send a text message."""
        side = self.side(name)
        if side.engine.phase is Phase.OPEN:
            side.engine.send(TEXT, payload)
            side.messages.append(payload.decode())

    @rule(name=sides, payload=texts, data=st.data())
    def send_fragments(self, name, payload, data):
        """Send a message in fragments, as another implementation might, with a Ping inside."""
        side = self.side(name)
        if side.engine.phase is Phase.OPEN:
            key = None if side.engine.is_server else b"abcd"
            cut = data.draw(st.integers(0, len(payload)))
            first, last = build_fragments(TEXT, [payload[:cut], payload[cut:]], key=key)
            side.engine.outbound.append(first + build_frame(PING, b"inside", key=key) + last)
            side.messages.append(payload.decode())

    @rule(name=sides, payload=st.sampled_from([b"", b"ping", b"p" * 125]))
    def ping(self, name, payload):
        """Send a Ping."""
        side = self.side(name)
        if side.engine.phase is Phase.OPEN:
            side.engine.ping(payload)

    @rule(name=sides, code=st.sampled_from([1000, 1001, 3000]), reason=st.sampled_from(["", "so"]))
    def close(self, name, code, reason):
        """Close, perhaps again, perhaps too late."""
        side = self.side(name)
        if side.engine.phase is Phase.OPEN:
            side.close = Closed(code, reason)
        side.engine.close(code, reason, self.now)
        side.note_close()

    # What the network does.

    @rule(name=sides, most=st.one_of(st.integers(1, 20), st.just(200_000)))
    def take(self, name, most):
        """Take octets from a side."""
        side = self.side(name)
        if not self.is_cut and side.engine.phase is not Phase.GONE:
            octets = side.engine.outbound.head(most)
            side.engine.outbound.consume(len(octets))
            side.taken += len(octets)
            side.wire += octets

    @rule(name=sides, most=st.one_of(st.integers(1, 20), st.just(200_000)))
    def pass_on(self, name, most):
        """Take and deliver without delay."""
        self.take(name, most)
        self.deliver(name, most)

    @rule(name=sides, most=st.one_of(st.integers(1, 20), st.just(200_000)))
    def deliver(self, name, most):
        """Give the peer some of what a side has sent."""
        side = self.side(name)
        octets, side.wire = side.wire[:most], side.wire[most:]
        if octets and side.peer.engine.phase is not Phase.GONE:
            side.peer.events += side.peer.engine.receive(octets, self.now)
            side.peer.note_close()

    @rule(chance=st.integers(0, 9))
    @precondition(lambda self: not self.is_cut)
    def cut(self, chance):
        """Break the connection, now and then; what was on its way is lost."""
        if chance:
            return
        self.is_cut = True
        for side in (self.server, self.client):
            side.wire = b""
            side.events += side.engine.receive_eof(self.now, "cut")
            side.note_close()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 25.0]))
    def wait(self, seconds):
        """Let time pass; both sides do what is due on the way."""
        until = self.now + seconds
        while True:
            due = min(side.engine.next_deadline() for side in (self.server, self.client))
            if due > until:
                break
            self.now = max(self.now, due)
            for side in (self.server, self.client):
                side.events += side.engine.handle_timeout(self.now)
                side.note_close()
                self.was_late |= side.engine.phase in (Phase.FAILED, Phase.GONE)
        self.now = until

    # What holds whatever happens.

    @invariant()
    def messages_arrive_whole_and_in_order(self):
        """What has come is the beginning of what was sent."""
        for side in (self.server, self.client):
            assert side.received == side.peer.messages[: len(side.received)]

    @invariant()
    def there_is_one_outcome(self):
        """An end is told once, and stays."""
        for side in (self.server, self.client):
            assert len(side.outcomes) <= 1
            assert side.engine.outcome == (side.outcomes[0] if side.outcomes else None)

    @invariant()
    def no_side_breaks_the_protocol(self):
        """Only a message that takes too long may fail."""
        for side in (self.server, self.client):
            assert all(end.code == 1008 for end in side.outcomes if isinstance(end, Failed))

    @invariant()
    def nothing_follows_a_close(self):
        """Once a Close is queued there is never more to send than there was."""
        for side in (self.server, self.client):
            if side.total_at_close is not None and side.engine.phase is not Phase.GONE:
                assert side.taken + side.engine.outbound.size == side.total_at_close

    def teardown(self):
        """Let the network deliver the rest; nobody broke the connection, so both agree."""
        if not hasattr(self, "server") or self.is_cut or self.was_late:
            return
        for _ in range(4):
            for name in ("server", "client"):
                self.take(name, 10**9)
                self.deliver(name, 10**9)
        self.messages_arrive_whole_and_in_order()
        self.nothing_follows_a_close()
        self._agree()

    def _agree(self):
        """Everything sent has come, and each side knows why the other closed."""
        for side in (self.server, self.client):
            assert side.received == side.peer.messages
            if side.close or side.peer.close:
                assert side.engine.phase is Phase.CLOSED
                assert side.outcomes == [side.peer.close or side.close]
            else:
                assert side.engine.phase is Phase.OPEN
        assert self.server.engine.may_drop is bool(self.server.outcomes)


TestNetwork = Network.TestCase
TestNetwork.settings = settings(max_examples=100, stateful_step_count=50)

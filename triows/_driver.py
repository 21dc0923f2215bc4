"""The seam between a channel and whatever moves its octets.

Above it is `triows.WebSocket`, which knows messages, waiting tasks and Trio's rules
of cancellation, and no octet; below it a *driver*, which knows a transport and the
protocol, and no task but its own. There is one driver for each connection: over a
`trio.abc.Stream` that is `triows._stream.StreamDriver`, in a loop that many share
`triows._reactor.Session`, which needs no task at all.

What the channel's promises ask of a driver:

- **Calls do not wait.** Every method but `Driver.run` is synchronous, may be called by
  any task, before `run` or `start` and after the end, and raises nothing but what
  it says. So what a task does between two checkpoints is done as a whole.
- **What is queued stays queued.** From `send` on, a message is the driver's: it leaves
  whole and in order, or the connection ends. No task that called `send` may be the one
  on whose cancellation that depends.
- **Events in order, each once.** `Sink.deliver` gets messages as they came; what ends
  the connection comes last, and `Driver.outcome` says it from then on.
- **No surprises.** A driver may call its sink from within a call of the channel's. Such
  a call only wakes tasks, which run later.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from triows._engine import (
    Closed,
    Deflated,
    Event,
    Failed,
    InflateError,
    Lost,
    Part,
    PerMessageDeflate,
    PreparedMessage,
)


class Sink(Protocol):
    """What a driver needs of the channel above it."""

    @property
    def take_message(self) -> Callable[[str | bytes, int], None]:
        """Takes a message and its octets on the wire, as `deliver` does an event."""

    @property
    def has_unread(self) -> bool:
        """Whether something that it took has not been received from it yet."""

    def deliver(self, events: Iterable[Event]) -> None:
        """Take what was received, in order; must not block."""

    def make_room(self) -> None:
        """Take note that octets have left, or never will."""

    def end(self) -> None:
        """Take note that the transport has been dropped: what `Driver.run` ends with."""


class Driver(Protocol):
    """What the channel needs of a driver."""

    @property
    def is_open(self) -> bool:
        """Whether something can be queued: neither side has closed, the transport works."""

    @property
    def is_deaf(self) -> bool:
        """Whether nothing more will be delivered."""

    @property
    def unsent(self) -> int:
        """Octets queued, headers included, that the transport has not taken yet.

        When they become fewer, `Sink.make_room` is called, at the latest once a turn;
        also when `is_open` ends.
        """

    @property
    def outcome(self) -> Closed | Failed | Lost | None:
        """How the connection ended, or None while it has not."""

    @property
    def deflate(self) -> PerMessageDeflate | None:
        """What messages are compressed with, None if that was not agreed on (RFC 7692).

        The driver compresses what it is given to send. What comes compressed it delivers as
        it is, in `Deflated` events: whoever takes a message inflates it, each in its turn, so
        that what is unread is no larger than it was on the wire, and costs no one time.
        """

    @property
    def is_mid_message(self) -> bool:
        """Whether a message that is sent in parts has begun and is not whole: no other may be sent.

        `Sink.make_room` is called when it is whole.
        """

    # Only while `is_open`.

    def send(self, opcode: int, payload: bytes) -> None:
        """Queue a whole data message, whatever `unsent` is (RFC 6455 §5.6).

        It leaves at once if the transport takes it and nothing is before it, or else as
        soon as that is so.
        """

    def offer(self, opcode: int, payload: bytes, mark: int) -> bool:
        """Do what `send` does if `is_open` and `unsent` is less than *mark*; else return False.

        For a connection that is not open too.
        """

    def send_prepared(self, message: PreparedMessage) -> None:
        """Queue a whole data message that goes to others too; as `send`."""

    def send_part(self, opcode: int, payload: bytes, *, is_last: bool, compress: bool) -> None:
        """Queue a part of a data message as a frame (RFC 6455 §5.4).

        The first part's *compress* counts; it matters only where that was agreed on.

        Nothing but control frames comes between the parts of a message: the channel sees
        to that.
        """

    def ping(self, payload: bytes) -> None:
        """Queue a Ping; a `Ponged` event with its payload answers it (RFC 6455 §5.5.2).

        Raises:
            ValueError: the payload is too long; nothing was queued.
        """

    # At any time.

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake behind what is queued (RFC 6455 §7.1.2).

        `run` ends once it is done, or at its deadline. When the connection is closing or
        has ended, nothing happens.

        Raises:
            ValueError: the code or the reason may not be sent; nothing was done.
        """

    def fail(self, error: InflateError) -> None:
        """Give the connection up because of a message that cannot be inflated (§7.1.7).

        `outcome` says so from then on, whatever it was.
        """

    def cut_off(self) -> None:
        """Fail the connection because its peer is too slow, with 1013 (RFC 6455 §7.1.7).

        The Close goes behind what is queued, for as long as a closing handshake may take.
        """

    def abort(self, why: str) -> None:
        """Drop the transport, and what is queued; `run` ends without waiting for anyone."""

    def pause(self) -> None:
        """Read no more from the peer until `resume`; what was read is still delivered.

        The peer's silence is not held against it meanwhile. Deadlines of the closing
        handshake go on.
        """

    def resume(self) -> None:
        """Read again."""

    def begin_parts(self) -> Part | Deflated | None:
        """Deliver the message under way, or else the next one, as `Part` events.

        Or as `Deflated` ones of which only the last is whole.

        Returns what is held of a message under way, its first part. The message after
        that comes whole.
        """

    def end_parts(self) -> None:
        """Deliver the next message whole, after all; no part of it has come."""

    def start(self, leftover: bytes) -> bool:
        """Serve the connection if that needs no task: returns False if `run` is to be called.

        Args:
            leftover: octets that came behind the opening handshake, delivered first.

        What is true once `run` has ended is true when `Sink.end` is called.
        """

    async def run(self, leftover: bytes) -> None:
        """Serve the connection until its transport has been dropped.

        Then `is_open` is False, `is_deaf` True, `outcome` known and delivered, and every
        descriptor, task and registration of the connection gone.

        Args:
            leftover: as in `start`.

        Cancelling does nothing: `abort`, or a deadline, ends it.
        """

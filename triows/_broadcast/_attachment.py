"""A WebSocket in a channel: what is published is sent to it, without a task.

There are two ways there. Where a reactor's loop serves the connection, it is a member of the
loop's *topic* for the channel, and a kernel sends it what is published together with all
others (`triows._reactor._topics`). Otherwise it is sent each message by its driver. Either
way what its peer does not take soon enough waits in its place, under its policy, and the
connection's own queue stays short.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import attrs

from triows._broadcast._backlog import CUT_OFF, Entry
from triows._broadcast._policies import Policy
from triows._broadcast._seat import Place
from triows._driver import Driver
from triows._engine import PreparedMessage
from triows._reactor import Connection, Home, Session
from triows._websocket import WebSocket

logger = logging.getLogger("triows")

Target: TypeAlias = WebSocket | Connection

ENOUGH_UNSENT = 65_536
"""Octets that a connection has not sent yet at which what is published waits in its place."""


@attrs.frozen(kw_only=True)
class AttachmentStatistics:
    """A snapshot of one attachment."""

    waiting_items: int
    waiting_octets: int
    dropped: int
    """Items that its policy has dropped."""


class Channel(Protocol):
    """What an attachment needs of its channel."""

    def stage(self) -> Home:
        """Return what topics know it by."""

    def admit(self, attachment: "Attachment") -> None:
        """Offer it what is published."""

    def remove(self, attachment: "Attachment") -> None:
        """Offer it nothing more by itself: it is in a topic."""

    def expel(self, attachment: "Attachment") -> None:
        """Offer it nothing more."""

    def do_after(self, call: Callable[[], None]) -> None:
        """Do what may publish, behind what is being published."""


class Attachment:
    """What `BroadcastChannel.attach` gives: a connection that is sent what is published.

    A context manager, whose end detaches the connection. It is detached too when it closes.
    """

    def __init__(
        self, channel: Channel, policy: Policy, on_detach: Callable[[], None] | None
    ) -> None:
        self._channel = channel
        self.policy = policy
        """What was asked for."""
        self._on_detach = [] if on_detach is None else [on_detach]
        self._place: Place
        self._ws: WebSocket | None = None
        self._driver: Driver | None = None
        self._leave: Callable[[], None] | None = None
        self._is_over = False

    # For users.

    @property
    def is_attached(self) -> bool:
        """Whether the connection is still sent what is published."""
        return not self._is_over

    def detach(self) -> None:
        """Send nothing more of the channel, and throw away what waits; harmless twice."""
        self.end()

    def call_on_detach(self, call: Callable[[], None]) -> None:
        """Have something called once it is no longer attached: at once, if that is so."""
        if self._is_over:
            call()
        else:
            self._on_detach.append(call)

    def statistics(self) -> AttachmentStatistics:
        """Return a snapshot; in a thread's loop its numbers may be of different moments."""
        return AttachmentStatistics(
            waiting_items=self._place.backlog.items,
            waiting_octets=self._place.backlog.octets,
            dropped=self._place.dropped,
        )

    def __enter__(self) -> Self:
        """Return this attachment, which the block's end detaches."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Detach."""
        self.detach()

    def __repr__(self) -> str:
        state = "detached" if self._is_over else f"under {self.policy!r}"
        return f"<triows.Attachment {state}>"

    # Beginning and ending.

    def begin(
        self, target: Target, place: Place, history: Sequence[Entry], *, publishes: bool
    ) -> None:
        """Begin with the end of the *history*; raises what `WebSocket.attach` does."""
        self._place = place
        if isinstance(target, Connection):
            greeting = place.end_that_fits(history)
            self._leave = target.join(self._channel.stage(), place, greeting, publishes=publishes)
            if self._leave is None:
                self.end()
            return
        if publishes:
            raise TypeError("only a reactor's connections have compiled handlers that publish")
        driver = target.attach(self)
        self._ws, self._driver = target, driver
        greeting = []
        if driver.is_mid_message:
            place.keep_end_that_fits(history)
        else:
            greeting = place.end_that_fits(history)
        if not self._join(driver, greeting):
            for message in greeting:
                driver.send_prepared(message)
            self._channel.admit(self)
            if isinstance(driver, Session) and driver.may_join:
                driver.on_enter += (self._move,)

    def _join(self, driver: Driver, greeting: list[PreparedMessage]) -> bool:
        if isinstance(driver, Session):
            self._leave = driver.join(self._channel.stage(), self._place, greeting)
        return self._leave is not None

    def _move(self) -> None:
        """Go on in the loop's topic: the loop serves the connection from now on."""
        driver = self._driver
        if self._is_over or driver is None:
            return
        self._channel.remove(self)
        greeting: list[PreparedMessage] = []
        while not self._place.is_empty and not driver.is_mid_message:
            greeting += self._place.take(ENOUGH_UNSENT)
        self._join(driver, greeting)

    def end(self) -> None:
        """Take note that this is over, from wherever it came; in Trio's thread."""
        if self._is_over:
            return
        self._is_over = True
        if self._ws is not None:
            self._ws.detach(self)
        if self._leave is not None:
            self._leave()
        else:
            self._place.backlog.clear()
        self._channel.expel(self)
        for call in self._on_detach:
            self._channel.do_after(partial(_tell, call))

    # What is published, by way of the driver: as a member of the channel.

    def fits(self, size: int) -> bool:
        """Say whether publishers need not wait for it."""
        return self._may_send or self._place.has_room(size)

    def offer(self, entry: Entry) -> int:
        """Send an entry, or let it wait; returns how many were lost by that, or CUT_OFF."""
        driver = self._driver
        assert driver is not None
        if self._may_send:
            driver.send_prepared(entry.prepared)
            return 0
        lost = self._place.offer(entry)
        if lost == CUT_OFF:
            driver.cut_off()
            self.detach()
        return lost

    @property
    def _may_send(self) -> bool:
        driver = self._driver
        assert driver is not None
        return self._place.is_empty and self._has_room(driver)

    @staticmethod
    def _has_room(driver: Driver) -> bool:
        """Whether the connection takes another message of the channel's."""
        return driver.is_open and not driver.is_mid_message and driver.unsent < ENOUGH_UNSENT

    def feed(self) -> None:
        """Send what waits: octets have left, or a message in parts is whole."""
        driver = self._driver
        if self._leave is None and driver is not None:
            while not self._place.is_empty and self._has_room(driver):
                for message in self._place.take(1):
                    driver.send_prepared(message)

    def skip(self, count: int) -> None:
        """Be told that *count* items were lost before they came to the channel."""
        self._place.skip(count)
        self.feed()

    def move_to(self, number: int, epoch: str) -> None:
        """Do nothing: no one asks where it is."""

    def wake(self) -> None:
        """Do nothing: that the channel was closed is no business of the connection."""


def _tell(call: Callable[[], None]) -> None:
    """Do what someone wants done at the end; whoever brings that about has no part in it."""
    try:
        call()
    except Exception:
        logger.exception("on_detach failed")

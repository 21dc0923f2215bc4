"""A loop's topics, and how what is published comes to the kernel and slow members to their seats.

Publishing notes a topic's batch; it leaves with the loop's other sends (`Loop.settle` and what
else replays), in the same kernel call. Who is sent something of its own meanwhile gets first
what was published before: each connection sees one order, that of the calls.
"""

# ruff: noqa: SLF001 - a loop and its fan are one thing in two modules

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from triows import _kernels as kernels
from triows._engine import PreparedMessage
from triows._kernels import slots as s
from triows._reactor._blocks import address_of
from triows._reactor._topics import Member, Seat, Stage, Topic

if TYPE_CHECKING:
    from triows._reactor._loop import Loop

FIELDS: Final = kernels.topics.TOPIC_FIELDS


class Fan:
    """The topics of a loop.

    Args:
        loop: theirs.
    """

    def __init__(self, loop: "Loop") -> None:
        self._loop = loop
        self._table = np.zeros((8, FIELDS), np.int64)
        self._topics: dict[Stage, Topic] = {}
        self._free = list(reversed(range(len(self._table))))
        self._members: dict[int, list[Member]] = {}
        self._bound: dict[Topic, int] = {}
        self._publishing: dict[int, Member] = {}
        self._by_index: dict[int, Topic] = {}
        self.noted: list[Topic] = []
        """Topics with a batch to be sent."""
        self.gathered = 0
        """Messages in those batches."""
        self.is_whole = False
        """Whether no more messages are to be expected soon."""
        self._batched: list[Topic] = []
        self._batches: list[bytearray] = []
        self._is_attending = False
        self._held: set[int] = set()  # slots that are sent nothing for now
        self._after: list[Callable[[], None]] = []
        self._show_table()

    # Topics.

    def topic_of(self, stage: Stage) -> Topic:
        """Return a channel's topic, which is made if there is none."""
        topic = self._topics.get(stage)
        if topic is None:
            if not self._free:
                self._grow()
            index = self._free.pop()
            topic = self._topics[stage] = Topic(self, index, stage)
            self._table[index] = 0
            self._by_index[index] = topic
            topic.move(self._view(index))
            stage.open(topic)
        return topic

    def _close_if_idle(self, topic: Topic) -> None:
        """Forget a topic that has no members, and none who publish there."""
        if len(topic) or self._bound.get(topic):
            return
        self._bound.pop(topic, None)
        if topic in self.noted:
            self.noted.remove(topic)
        topic.close()
        topic.stage.close(topic)
        del self._topics[topic.stage], self._by_index[topic.index]
        self._free.append(topic.index)

    def _view(self, index: int) -> memoryview:
        words = self._table.data.cast("B").cast("q")
        return words[FIELDS * index : FIELDS * (index + 1)]

    def _grow(self) -> None:
        count = len(self._table)
        self._table = np.concatenate((self._table, np.zeros_like(self._table)))
        self._free.extend(reversed(range(count, 2 * count)))
        for topic in self._topics.values():
            topic.move(self._view(topic.index))
        self._show_table()

    def _show_table(self) -> None:
        self._loop._words[s.TOPICS] = self._table.ctypes.data
        self._loop._words[s.TOPIC_COUNT] = len(self._table)

    # Members.

    def join(
        self, stage: Stage, slot: int, session: int, seat: Seat, *, publishes: bool = False
    ) -> Member:
        """Make an open connection a member of a channel's topic.

        Args:
            stage: the channel.
            slot: the connection's.
            session: the connection's.
            seat: its place in the channel.
            publishes: whether that is where its compiled handler publishes to from now on.
        """
        topic = self.topic_of(stage)
        member = topic.add(slot, session, seat)
        self._members.setdefault(slot, []).append(member)
        row = self._loop._slots[slot]
        row[s.MEMBERSHIPS] += 1
        if publishes:
            if row[s.BOUND]:
                self._unbind(slot)
            row[s.BOUND] = topic.index + 1
            self._publishing[slot] = member
            self._bound[topic] = self._bound.get(topic, 0) + 1
        if slot in self._held:
            topic.make_slow(member)
        return member

    def hold(self, slot: int) -> None:
        """Let what is published wait for a connection, in its seats, until `let_go`.

        What was published before is sent.
        """
        self._held.add(slot)
        for member in self._members.get(slot, [])[:]:
            self._send_unsent(member)
            if member.index >= 0:
                member.topic.make_slow(member)

    def let_go(self, slot: int) -> None:
        """Send a connection what is published again, and what has waited."""
        self._held.discard(slot)
        self.feed(slot)

    def leave(self, member: Member) -> None:
        """Let a member go, if it has not gone: it is sent what was published before."""
        if member in self._members.get(member.slot, ()):
            self._send_unsent(member)
            if self._publishing.get(member.slot) is member:
                self._unbind(member.slot)
            self._remove(member)

    def _remove(self, member: Member) -> None:
        """Let a member go, whose seat is told."""
        member.is_gone = True
        of_slot = self._members[member.slot]
        of_slot.remove(member)
        if not of_slot:
            del self._members[member.slot]
        topic = member.topic
        row = self._loop._slots[member.slot]
        row[s.MEMBERSHIPS] -= 1
        row[s.SLOW] -= member.index < 0
        topic.remove(member)
        self._close_if_idle(topic)
        self._do_after(member.seat.end)

    def _unbind(self, slot: int) -> None:
        row = self._loop._slots[slot]
        topic = self._by_index[int(row[s.BOUND]) - 1]
        row[s.BOUND] = 0
        del self._publishing[slot]
        self._bound[topic] -= 1
        self._close_if_idle(topic)

    def release(self, slot: int) -> None:
        """Let a connection go whose slot will be another's."""
        self.forget(slot)
        if self._loop._slots[slot, s.BOUND]:
            self._unbind(slot)

    def forget(self, slot: int) -> None:
        """Let a connection go that ends; what it has published is still given out."""
        self._held.discard(slot)
        for member in self._members.get(slot, [])[:]:
            self._remove(member)

    def cut_off(self, member: Member) -> None:
        """End a connection that is too slow for its policy, with 1013."""
        self.forget(member.slot)
        self._do_after(partial(self._loop.cut_off, member.slot))

    def _do_after(self, call: Callable[[], None]) -> None:
        """Do what users hear of, who may publish then: not before all have what was published."""
        if self._is_attending:
            self._after.append(call)
        else:
            call()

    def seat(self, member: Member) -> None:
        """Take note that a member is slow from now on."""
        self._loop._slots[member.slot, s.SLOW] += 1

    def unseat(self, member: Member) -> None:
        """Take note that it no longer is."""
        self._loop._slots[member.slot, s.SLOW] -= 1

    # Publishing.

    @property
    def weight(self) -> int:
        """How many members are to be sent something that was published."""
        return sum(map(len, self.noted))

    @property
    def is_full(self) -> bool:
        """Whether no other topic can be noted before a `flush`."""
        return len(self.noted) == s.BATCH_CAPACITY

    def note(self, topic: Topic) -> None:
        """Have a topic's batch sent soon; not if `is_full`.

        Nothing is sent here: the topic is about to offer to those that are slow what others have
        in its batch.
        """
        self.noted.append(topic)
        self._loop.note_batch()

    def publish_for(self, slot: int, opcode: int, payload: bytes) -> bool:
        """Publish a message to the topic that a slot is bound to; False if it is to none."""
        for member in self._members.get(slot, ()):
            topic = member.topic
            if self._loop._slots[slot, s.BOUND] == topic.index + 1:
                topic.publish_here(opcode, payload)
                return True
        return False

    def flush(self) -> None:
        """Have everything sent now."""
        self._loop._replay()

    def catch_up(self, slot: int) -> None:
        """Send a connection what was published before, ahead of what it is to be sent next."""
        for member in self._members.get(slot, ()):
            self._send_unsent(member)

    def _send_unsent(self, member: Member) -> None:
        for message in list(member.topic.unsent_for(member)):
            self.send(member.slot, member.session, message)

    def send(self, slot: int, session: int, message: PreparedMessage) -> None:
        """Send a connection a message of its own."""
        self._loop._note_send(slot, session, message.payload, message.opcode)

    def put(self) -> None:
        """Show the kernel the batches, until `clear`."""
        words = self._loop._words
        self._batched, self.noted = self.noted, []
        self.gathered = 0
        self.is_whole = False
        for i, topic in enumerate(self._batched):
            batch = topic.take_batch()
            at = s.BATCHES + s.BATCH_FIELDS * i
            words[at + s.BATCH_TOPIC] = topic.index
            words[at + s.BATCH_ADDRESS] = address_of(batch)
            words[at + s.BATCH_SIZE] = len(batch)
            self._batches.append(batch)
        words[s.BATCH_COUNT] = len(self._batched)

    def clear(self) -> None:
        """Forget what was handed over, unless there is news of it."""
        self._batches.clear()
        if not self._loop._words[s.HAS_NEWS]:
            for topic in self._batched:
                topic.forget_batch()
            self._batched.clear()

    # After a kernel.

    def attend(self) -> None:
        """Look after the members and messages that the kernel has left to Python."""
        if self._is_attending:
            return
        words = self._loop._words
        self._is_attending = True
        try:
            while words[s.HAS_NEWS]:
                words[s.HAS_NEWS] = 0
                topics = {*self._batched, *self._bound}
                self._batched.clear()
                seated: list[Member] = []
                for topic in topics:
                    if topic.has_news:
                        seated += topic.attend()
                    topic.forget_batch()
                hungry = self._take_thirsty()
                # Its queue may have emptied while no one knew that it is slow.
                hungry += [one.slot for one in seated if one.index < 0]
                for slot in hungry:
                    self.feed(slot)
        finally:
            self._is_attending = False
        while self._after:
            self._after.pop(0)()

    def _take_thirsty(self) -> list[int]:
        words, slots = self._loop._words, self._loop._slots
        found = []
        slot = words[s.THIRSTY]
        words[s.THIRSTY] = -1
        while slot > 0:
            found.append(slot - 1)
            following = int(slots[slot - 1, s.NEXT_THIRSTY])
            slots[slot - 1, s.NEXT_THIRSTY] = 0
            slot = following
        return found

    def feed(self, slot: int) -> None:
        """Send a connection what its seats hold, until it takes no more or they are empty."""
        row = self._loop._slots[slot]
        while row[s.SLOW] and not row[s.QUEUE_SIZE] and slot not in self._held:
            for member in self._members.get(slot, [])[:]:
                if member.index < 0:
                    for message in member.topic.feed(member):
                        self.send(slot, member.session, message)
            self._loop._replay()

    def collect(self) -> None:
        """Count what compiled handlers have published."""
        for topic in self._bound:
            topic.collect()

    def close(self) -> None:
        """Let everyone go: the loop has ended."""
        used = self._loop._words[s.USED_SLOTS]
        for slot in {*self._members, *np.flatnonzero(self._loop._slots[:used, s.BOUND]).tolist()}:
            self.release(slot)

"""Fan-out: what is published to a topic is handed to all its members in one pass.

A *topic* is a row of a table that Python keeps: who its members are, and what compiled
handlers have published in this turn. A *batch* is what is published together: whole
frames, one after the other, built once. Each member is sent the batch from where it lies,
by one system call, whatever the number of messages in it.

A member that does not take all of its batch is left to Python, where its policy is. The
kernel finishes the frame that was cut, or begun to be waited for, in the connection's
queue, and notes how much of the batch the member has had. From then on Python holds back
what is for it, until `thirst` says that the queue is empty. So a slow member costs the
pass nothing but its skipping.

A table and its arrays are NumPy's, seen here by their addresses: a kernel cannot take an
array of arrays.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels import _slots as s
from triows._kernels import _topics as t
from triows._kernels._goodbye import end
from triows._kernels._headers import read_number, write_header
from triows._kernels._libc import Octets
from triows._kernels._outlet import adjust_interest, enqueue, send_now
from triows._kernels._registry import kernel
from triows._kernels._replies import reply_header
from triows._kernels._system import EPOLLOUT, block, integers, move, resize

Integers: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.int32]

_FIN: Final = 0x80


@kernel("int64[::1](int64[::1], int64)", inline=True)
def topic_row(loop: Integers, topic: int) -> Integers:
    """View a topic's row."""
    table = integers(loop[s.TOPICS], t.TOPIC_FIELDS * (topic + 1))
    row: Integers = table[t.TOPIC_FIELDS * topic :]
    return row


@kernel("int64(uint8[::1], int64)", inner=True)
def frame_size(octets: Octets, start: int) -> int:
    """Read how long the server's frame at *start* is, its header included (RFC 6455 §5.2)."""
    size: Any = np.int64(octets[start + 1])
    if size <= 125:
        return size + 2
    if size == 126:
        return read_number(octets, start + 2, 2) + 4
    return read_number(octets, start + 2, 8) + 10


@kernel("int64(int64[::1], uint8[::1], int64, int64, int64)", inner=True)
def count_frames(loop: Integers, octets: Octets, start: int, stop: int, times: int) -> int:
    """Count the frames octets[start:stop] as sent so many times; returns 0."""
    while start < stop:
        size = frame_size(octets, start)
        loop[s.FRAMES_OUT] += times
        loop[s.MESSAGES_OUT] += times
        loop[s.OCTETS_OUT] += times * (size - reply_header(size - 2))
        start += size
    return 0


@kernel("int64(int64[::1], int64[:,::1], int64)", inner=True)
def make_dirty(loop: Integers, slots: Integers, slot: int) -> int:
    """See to it that the slot's queue is flushed when all is replayed; returns 0."""
    row = slots[slot]
    if row[s.NEXT_DIRTY] == 0:
        row[s.NEXT_DIRTY] = loop[s.DIRTY]
        loop[s.DIRTY] = slot + 1
    return 0


@kernel("int64(int64[::1], int64[:,::1], int64)", inner=True)
def thirst(loop: Integers, slots: Integers, slot: int) -> int:
    """Tell Python that a queue is empty, if it has more for it; returns 0."""
    row = slots[slot]
    if row[s.SLOW] > 0 and row[s.QUEUE_SIZE] == 0 and row[s.NEXT_THIRSTY] == 0:
        row[s.NEXT_THIRSTY] = loop[s.THIRSTY]
        loop[s.THIRSTY] = slot + 1
        loop[s.HAS_NEWS] = 1
    return 0


@kernel("int64(int64[::1], int64[::1], int32[::1], int64, uint8[::1], int64, int64)", inner=True)
def keep_rest(
    loop: Integers,
    row: Integers,
    event: Words,
    slot: int,
    octets: Octets,
    start: int,
    sent: int,
) -> int:
    """Queue what is left of the frame at octets[sent], or of one more where that begins there.

    start  where a frame begins, at *sent* or before it; behind *sent* there are whole frames

    Returns where the next frame begins, or BROKEN.
    """
    next_frame = start
    while next_frame <= sent:
        next_frame += frame_size(octets, next_frame)
    if enqueue(loop, row, octets, sent, next_frame - sent) < 0:
        return s.BROKEN
    if adjust_interest(loop, row, event, slot) < 0:
        return s.BROKEN
    return next_frame


@kernel(
    "int64(int64[::1], int64[:,::1], int32[::1], int64[::1], uint8[::1], int64, int64, int64)",
    inner=True,
)
def hand_over(
    loop: Integers,
    slots: Integers,
    event: Words,
    member: Integers,
    octets: Octets,
    start: int,
    stop: int,
    holds: int,
) -> int:
    """Send a batch to one member, or put it into its queue; returns 1 if it is slow, else 0.

    holds  whether the queue is flushed later, with what else goes there
    """
    slot = member[t.MEMBER_SLOT]
    row = slots[slot]
    if row[s.INTEREST] & EPOLLOUT:  # its peer is waited for already
        member[t.MEMBER_AT] = start
        return 1
    if holds or row[s.QUEUE_SIZE] > 0:
        had = stop
        if enqueue(loop, row, octets, start, stop - start) < 0:
            had = s.BROKEN
        make_dirty(loop, slots, slot)
    else:
        had = send_now(loop, row, octets, start, stop - start)
        if had == stop - start:
            return 0
        if had >= 0:
            had = keep_rest(loop, row, event, slot, octets, start, start + had)
    if had < 0:
        end(loop, slots, event, slot)
        return 0
    member[t.MEMBER_AT] = had
    return 1 if had < stop else 0


@kernel(
    "int64(int64[::1], int64[:,::1], int32[::1], int64, uint8[::1], int64, int64, int64, int64)",
    inner=True,
)
def fan_out(
    loop: Integers,
    slots: Integers,
    event: Words,
    topic: int,
    octets: Octets,
    start: int,
    stop: int,
    holds: int,
    mark: int,
) -> int:
    """Hand octets[start:stop], whole frames, to every member of a topic; returns 0.

    A member that has had some of it already, as t.MEMBER_AT says, gets the rest. Those that
    are found slow get the *mark*, and are skipped from then on.
    """
    about = topic_row(loop, topic)
    count = about[t.MEMBER_COUNT]
    members = integers(about[t.MEMBERS], t.MEMBER_FIELDS * count)
    whole = 0
    for i in range(count):
        member = members[t.MEMBER_FIELDS * i : t.MEMBER_FIELDS * (i + 1)]
        if member[t.MEMBER_SLOW] or slots[member[t.MEMBER_SLOT], s.PHASE] != s.OPEN:
            continue
        begin = max(start, member[t.MEMBER_AT])
        member[t.MEMBER_AT] = 0
        if begin >= stop:
            continue
        if hand_over(loop, slots, event, member, octets, begin, stop, holds):
            member[t.MEMBER_SLOW] = mark
            about[t.SLOW_COUNT] += 1
            loop[s.HAS_NEWS] = 1
            count_frames(loop, octets, begin, member[t.MEMBER_AT], 1)
        else:
            member[t.MEMBER_AT] = 0
            if begin == start:
                whole += 1
            else:
                count_frames(loop, octets, begin, stop, 1)
    return count_frames(loop, octets, start, stop, whole)


@kernel("int64(int64[::1], int64[:,::1], int32[::1])", inner=True)
def fan_out_batches(loop: Integers, slots: Integers, event: Words) -> int:
    """Hand over what Python has published; returns 0."""
    count = loop[s.BATCH_COUNT]
    loop[s.BATCH_COUNT] = 0
    for i in range(count):
        batch = loop[s.BATCHES + s.BATCH_FIELDS * i : s.BATCHES + s.BATCH_FIELDS * (i + 1)]
        octets = block(batch[s.BATCH_ADDRESS], batch[s.BATCH_SIZE])
        holds = 1 if count > 1 else 0
        stop = batch[s.BATCH_SIZE]
        fan_out(loop, slots, event, batch[s.BATCH_TOPIC], octets, 0, stop, holds, t.BY_BATCH)
    return 0


@kernel("int64(int64[::1], int64[::1], uint8[::1], int64, int64, int64)", inner=True)
def publish(
    loop: Integers, row: Integers, octets: Octets, start: int, size: int, opcode: int
) -> int:
    """Append a message to what is published in this turn to the topic that a row is bound to.

    Returns 0, or -1: it is bound to none, or there is no memory.
    """
    topic = row[s.BOUND] - 1
    if topic < 0:
        return -1
    about = topic_row(loop, topic)
    header = reply_header(size)
    used = about[t.UNSENT_SIZE]
    if header + size > about[t.UNSENT_ROOM] - used:
        room = max(2 * used, used + header + size)
        handle = resize(about[t.UNSENT], room)
        if handle == 0:
            return -1
        about[t.UNSENT] = handle
        about[t.UNSENT_ROOM] = room
    unsent = block(about[t.UNSENT], about[t.UNSENT_ROOM])
    write_header(unsent, used, _FIN | opcode, size, -1)
    move(unsent, used + header, octets, start, size)
    about[t.UNSENT_SIZE] = used + header + size
    about[t.PUBLISHED] += 1
    about[t.OFFERED] += about[t.MEMBER_COUNT]
    loop[s.UNSENT_OCTETS] += header + size
    if about[t.NEXT_UNSENT] == 0:
        about[t.NEXT_UNSENT] = loop[s.UNSENT_TOPIC]
        loop[s.UNSENT_TOPIC] = topic + 1
    return 0


@kernel("int64(int64[::1], int64[:,::1], int32[::1])", inner=True)
def fan_out_unsent(loop: Integers, slots: Integers, event: Words) -> int:
    """Hand over what compiled handlers have published in this turn; returns 0.

    It is kept where Python has use for it.
    """
    first = topic_row(loop, loop[s.UNSENT_TOPIC] - 1)
    holds = 1 if first[t.NEXT_UNSENT] > 0 else 0
    while loop[s.UNSENT_TOPIC] > 0:
        topic = loop[s.UNSENT_TOPIC] - 1
        about = topic_row(loop, topic)
        loop[s.UNSENT_TOPIC] = about[t.NEXT_UNSENT]
        about[t.NEXT_UNSENT] = 0
        unsent = block(about[t.UNSENT], about[t.UNSENT_ROOM])
        stop = about[t.UNSENT_SIZE]
        fan_out(loop, slots, event, topic, unsent, about[t.UNSENT_DONE], stop, holds, t.BY_UNSENT)
        about[t.UNSENT_DONE] = stop
        if about[t.IS_HEARD] or about[t.SLOW_COUNT] > 0:
            loop[s.HAS_NEWS] = 1
        else:
            about[t.UNSENT_SIZE] = about[t.UNSENT_DONE] = 0
    loop[s.UNSENT_OCTETS] = 0
    return 0

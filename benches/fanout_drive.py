"""The fan-out generator's compiled loop: one of each room sends, all receive, octets are compared.

Beside `drive`, whose door to libc it shares. What is on its way is bounded by a *window* of each
room's own: so many messages are sent that not every connection of the room has received yet.
"""

from drive import (
    CLOSED,
    DATUM_WORD,
    DETAIL,
    EAGAIN,
    EINTR,
    EVENTS,
    FD,
    FINE,
    LATENCY_COUNT,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    OFFSET,
    PATIENCE,
    RECEIVED,
    SLOT,
    STALLED,
    SYSTEM_ERROR,
    WRONG_OCTET,
    compiled,
    epoll_wait,
    errno,
    memcmp,
    monotonic,
    recv,
    send,
)

MOST_WINDOW = 250
DELIVERIES = LATENCY_COUNT  # where the verdict counts them


@compiled
def _send_some(fd, frames, sent, count):
    """Send messages *sent* .. *sent* + *count* in one piece; returns 0, or an errno."""
    size = frames.shape[1]
    address = frames.ctypes.data + sent % (frames.shape[0] - MOST_WINDOW) * size
    start = 0
    while start < count * size:
        n = send(fd, address + start, count * size - start, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n < 0:
            error = errno()
            if error not in (EAGAIN, EINTR):
                return error
            n = 0
        start += n
    return 0


@compiled
def _check(row, octets, n, stream, verdict):
    """Compare what came with the stream that everyone is to get, over and over."""
    at = row[RECEIVED] % stream.size
    done = 0
    while done < n:
        size = min(n - done, stream.size - at)
        if memcmp(octets.ctypes.data + done, stream.ctypes.data + at, size) != 0:
            for i in range(size):
                if octets[done + i] != stream[at + i]:
                    verdict[OFFSET] = row[RECEIVED] + done + i
                    verdict[DETAIL] = octets[done + i]
                    break
            return WRONG_OCTET
        done += size
        at = 0
    return FINE


@compiled
def _receive(row, octets, stream, reply, counts, sent_at, latencies, verdict, now):
    """Receive once, compare, and count the messages that are whole with it, for a room."""
    n = recv(row[FD], octets.ctypes.data, octets.size, MSG_DONTWAIT)
    if n <= 0:
        verdict[DETAIL] = errno()
        if n < 0 and verdict[DETAIL] in (EAGAIN, EINTR):
            return FINE
        return CLOSED if n == 0 else SYSTEM_ERROR
    code = _check(row, octets, n, stream, verdict)
    if code != FINE:
        return code
    had = row[RECEIVED] // reply
    row[RECEIVED] += n
    for k in range(had, row[RECEIVED] // reply):
        counts[k % counts.size] += 1
        latencies[verdict[DELIVERIES] % latencies.size] = now - sent_at[k % counts.size]
        verdict[DELIVERIES] += 1
    return FINE


@compiled
def _fill(room, state, frames, progress, counts, sent_at, verdict, window, now):
    """Send what a room's window has place for; returns FINE or SYSTEM_ERROR."""
    first, sent = progress[room]
    free = window - (sent - first)
    if free == 0:
        return FINE
    for k in range(sent, sent + free):
        counts[room, k % counts.shape[1]] = 0
        sent_at[room, k % counts.shape[1]] = now
    error = _send_some(state[room, FD], frames, sent, free)
    if error != 0:
        verdict[SLOT] = room
        verdict[DETAIL] = error
        return SYSTEM_ERROR
    progress[room, 1] += free
    return FINE


@compiled
def _advance(progress, counts, readers):
    """Take note of what all of a room have; returns how many messages are on their way."""
    outstanding = 0
    for room in range(progress.shape[0]):
        first, sent = progress[room]
        while first < sent and counts[room, first % counts.shape[1]] == readers:
            first += 1
        progress[room, 0] = first
        outstanding += sent - first
    return outstanding


@compiled
def fan_out(
    epoll, slots, state, frames, stream, octets, events, clock, progress, counts, sent_at,
    latencies, verdict, window, nanoseconds,
):  # fmt: skip
    """Send by one connection of each room for some time, then wait for what is outstanding.

    epoll      descriptor that watches every connection that reads, its datum the connection's own
    slots      int64 (descriptors,): row of each descriptor in *state*
    state      int64 (connections, STATE_COLUMNS); RECEIVED counts octets from the first on. The
               connections are in the rooms in turn, the same number in each; the first of a room
               sends.
    frames     uint8 (variants + MOST_WINDOW, octets): the messages, masked, sent in turn; the
               first follow once more, so that a whole window is always one piece
    stream     uint8: what they are relayed as, one after the other
    octets     uint8, room for one receive
    events     int32 (EVENTS, EVENT_WORDS)
    clock      int64 (2,): room for a struct timespec
    progress   int64 (rooms, 2): room for what all have, and what was sent, in messages
    counts     int64 (rooms, 2 * MOST_WINDOW): connections that have a message, by its number
    sent_at    int64 (rooms, 2 * MOST_WINDOW): when it was sent, likewise
    latencies  int64, a ring of nanoseconds from a message's send to each delivery
    verdict    int64 (VERDICT_ROWS,), zeroed; holds the deliveries and the fault's place
    window     messages of a room, 1..MOST_WINDOW
    nanoseconds for which to send

    Returns FINE, or what went wrong.
    """
    reply = stream.size // (frames.shape[0] - MOST_WINDOW)
    rooms = counts.shape[0]
    for room in range(rooms):  # all of it have as much between two runs
        progress[room, :] = state[room, RECEIVED] // reply
    outstanding = 0
    now = monotonic(clock)
    deadline = now + nanoseconds
    while now < deadline or outstanding > 0:
        if now < deadline:
            for room in range(rooms):
                code = _fill(room, state, frames, progress, counts, sent_at, verdict, window, now)
                if code != FINE:
                    return code
        count = epoll_wait(epoll, events.ctypes.data, EVENTS, int(PATIENCE * 1000))
        if count == 0:
            return STALLED
        now = monotonic(clock)
        for i in range(count):
            slot = slots[events[i, DATUM_WORD]]
            room = slot % rooms
            verdict[SLOT] = slot
            code = _receive(
                state[slot], octets, stream, reply, counts[room], sent_at[room], latencies,
                verdict, now,
            )  # fmt: skip
            if code != FINE:
                return code
        outstanding = _advance(progress, counts, state.shape[0] // rooms)
        now = monotonic(clock)
    return FINE

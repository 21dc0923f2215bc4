"""The fan-out generator's compiled loop: one client sends, all receive, each octet is compared.

Beside `drive`, whose door to libc it shares. What is on its way is bounded by a *window*: so many
messages are sent that not every connection has received yet.
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
    """Receive once, compare, and count the messages that are whole with it."""
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
def fan_out(
    epoll, slots, state, frames, stream, octets, events, clock, counts, sent_at, latencies, verdict,
    window, nanoseconds,
):  # fmt: skip
    """Send by connection 0 for so many nanoseconds, then wait for what is outstanding.

    epoll      descriptor that watches every connection that reads, its datum the connection's own
    slots      int64 (descriptors,): row of each descriptor in *state*
    state      int64 (connections, STATE_COLUMNS); RECEIVED counts octets from the first on
    frames     uint8 (variants + MOST_WINDOW, octets): the messages, masked, sent in turn; the
               first follow once more, so that a whole window is always one piece
    stream     uint8: what they are relayed as, one after the other
    octets     uint8, room for one receive
    events     int32 (EVENTS, EVENT_WORDS)
    clock      int64 (2,): room for a struct timespec
    counts     int64 (2 * MOST_WINDOW,): connections that have a message, by its number
    sent_at    int64 (2 * MOST_WINDOW,): when it was sent, likewise
    latencies  int64, a ring of nanoseconds from a message's send to each delivery
    verdict    int64 (VERDICT_ROWS,), zeroed; holds the deliveries and the fault's place
    window     messages, 1..MOST_WINDOW

    Returns FINE, or what went wrong.
    """
    reply = stream.size // (frames.shape[0] - MOST_WINDOW)
    readers = state.shape[0]
    ring = counts.size
    first = sent = state[0, RECEIVED] // reply  # all have as much between two runs
    now = monotonic(clock)
    deadline = now + nanoseconds
    while now < deadline or first < sent:
        room = window - (sent - first)
        if room > 0 and now < deadline:
            for k in range(sent, sent + room):
                counts[k % ring] = 0
                sent_at[k % ring] = now
            error = _send_some(state[0, FD], frames, sent, room)
            if error != 0:
                verdict[DETAIL] = error
                return SYSTEM_ERROR
            sent += room
        count = epoll_wait(epoll, events.ctypes.data, EVENTS, int(PATIENCE * 1000))
        if count == 0:
            return STALLED
        now = monotonic(clock)
        for i in range(count):
            slot = slots[events[i, DATUM_WORD]]
            verdict[SLOT] = slot
            code = _receive(
                state[slot], octets, stream, reply, counts, sent_at, latencies, verdict, now
            )
            if code != FINE:
                return code
        while first < sent and counts[first % ring] == readers:
            first += 1
        now = monotonic(clock)
    return FINE

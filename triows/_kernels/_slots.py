"""The connections of a loop, as rows of integers, and the loop's own registers.

A *slot* is a row: the scan's state first, then what else a turn must know of a
connection. An idle connection is nothing but its slot; a block of memory hangs on
it only while it has something to hold: an unfinished header, an unfinished
message, octets that the kernel did not take.

An event carries the slot and its *generation*. Ending a connection gives its slot
another generation, so that an event that was fetched before, for the same slot,
reaches no one.
"""

from typing import Final

from triows._kernels._scan import STATE_SIZE

# The columns of a slot behind the scan's state: int64.
DESCRIPTOR: Final = STATE_SIZE  # of the socket; -1 in a free slot
GENERATION: Final = STATE_SIZE + 1  # 0..2**31 - 1
PHASE: Final = STATE_SIZE + 2
INTEREST: Final = STATE_SIZE + 3  # what epoll reports: EPOLLIN, EPOLLOUT
CARRY: Final = STATE_SIZE + 4  # the block of an unfinished header or control frame
CARRY_SIZE: Final = STATE_SIZE + 5
MESSAGE: Final = STATE_SIZE + 6  # the block of the message under way, behind HEADROOM octets
MESSAGE_STORED: Final = STATE_SIZE + 7  # octets of it that are there
MESSAGE_ROOM: Final = STATE_SIZE + 8  # octets of the block
QUEUE: Final = STATE_SIZE + 9  # the block of what the kernel has not taken
QUEUE_START: Final = STATE_SIZE + 10
QUEUE_SIZE: Final = STATE_SIZE + 11
QUEUE_ROOM: Final = STATE_SIZE + 12
HEARD: Final = STATE_SIZE + 13  # when the peer last gave a sign of life, in ns
IS_PINGING: Final = STATE_SIZE + 14  # whether it was pinged since
MESSAGE_SINCE: Final = STATE_SIZE + 15  # when the unfinished message began; 0 for none
CLOSE_SINCE: Final = STATE_SIZE + 16  # when the closing handshake began
NEXT_FREE: Final = STATE_SIZE + 17  # the free slot behind this free one, or -1
SLOT_SIZE: Final = STATE_SIZE + 18

# Phases.
FREE: Final = 0
OPEN: Final = 1
CLOSING: Final = 2  # this side sent a Close and awaits the peer's
CLOSED: Final = 3  # a Close went each way: the socket is closed once the queue is empty
FAILED: Final = 4  # an error's Close is on its way: half-close once the queue is empty
LINGERING: Final = 5  # half-closed: what still comes is thrown away until the peer ends (§7.1.7)

# A loop's registers: int64. Settings first.
EPOLL: Final = 0
HANDLER: Final = 1  # the address of the compiled handler; 0 echoes
BUDGET: Final = 2  # ns of one turn
HIGH_WATER: Final = 3  # queued octets above which a connection is not read
LOW_WATER: Final = 4
PING_INTERVAL: Final = 5  # ns
PING_TIMEOUT: Final = 6
MESSAGE_TIMEOUT: Final = 7
CLOSE_TIMEOUT: Final = 8
LIMIT_MESSAGE: Final = 9  # octets
LIMIT_FRAGMENTS: Final = 10
SWEEP_INTERVAL: Final = 11  # ns between looks at all deadlines
INCOMPLETE_LIMIT: Final = 12  # octets of unfinished messages that all connections may hold
# What changes.
NOW: Final = 13  # ns, once a turn
FREE_SLOT: Final = 14  # the first free slot, or -1
USED_SLOTS: Final = 15  # slots that were ever used: a sweep looks no further
CURSOR: Final = 16  # the next event to serve
EVENT_COUNT: Final = 17
OUT_START: Final = 18  # the replies so far of the connection being served, in the region
OUT_STOP: Final = 19
NEXT_SWEEP: Final = 20
IS_WOKEN: Final = 21  # the wake-up descriptor has fired
LEAVES_EMPTY: Final = 39  # whether turns end when there is no connection
INCOMPLETE: Final = 22  # octets of unfinished messages
# What is counted.
CONNECTIONS: Final = 23
OPENED: Final = 24
MESSAGES_IN: Final = 25
OCTETS_IN: Final = 26  # of payload
MESSAGES_OUT: Final = 27
OCTETS_OUT: Final = 28
RECEIVES: Final = 29
SENDS: Final = 30
TURNS: Final = 31
EVENTS: Final = 32
QUEUED: Final = 33  # octets in all queues
FAILURES: Final = 34  # connections that ended because of the peer's error
HANDLER_FAILURES: Final = 35
SYSTEM_FAILURES: Final = 36  # connections that ended because of a system call
FRAMES_IN: Final = 37
FRAMES_OUT: Final = 38
ERRNOS: Final = 40  # and on: how often system calls failed with each errno, with others at 0
ERRNO_COUNT: Final = 134
REGISTERS: Final = ERRNOS + ERRNO_COUNT

HEADROOM: Final = 160
"""Octets before the received ones in the region: room for what was carried over."""

RECEIVE_SIZE: Final = 65_536
"""Octets of one receive."""

TAILROOM: Final = 160
"""Octets behind the received ones: room for a Close frame."""

WAKE_SLOT: Final = 2**31 - 1
"""The slot that the events of the wake-up descriptor carry."""

BROKEN: Final = -100
"""What a kernel returns for a connection that is past use and is to be ended.

No ending that a peer is told has this code.
"""

LOOP: Final = "int64[::1], int64[:,::1], uint8[::1], int64[:,::1], int32[::1]"
"""A loop in signatures: its registers, slots, region, table, and room for an event."""

"""The connections of a loop, as rows of integers, and the loop's own registers.

A *slot* is a row: the scan's state first, then what else a turn must know of a
connection. It takes whole lines of the processor's cache, and what is looked at
together shares a line: with many connections, each line of each of them is a miss.
An idle connection is nothing but its slot; a block of memory hangs on it only while
it has something to hold: an unfinished header, an unfinished message, octets that the
kernel did not take.

An event carries the slot and its *generation*. Ending a connection gives its slot
another generation, so that an event that was fetched before, for the same slot,
reaches no one.
"""

from typing import Final

from triows._kernels._scan import STATE_SIZE

# The columns of a slot behind the scan's state: int64. These share a line with what plain frames
# need of that state;
GENERATION: Final = STATE_SIZE  # 0..2**31 - 1
SESSION: Final = STATE_SIZE + 1  # the number that names the connection for good; 0 for none
# this line has what any octets in or out need;
DESCRIPTOR: Final = STATE_SIZE + 2  # of the socket; -1 in a free slot
PHASE: Final = STATE_SIZE + 3
INTEREST: Final = STATE_SIZE + 4  # what epoll reports: EPOLLIN, EPOLLOUT
QUEUE_SIZE: Final = STATE_SIZE + 5
CARRY: Final = STATE_SIZE + 6  # the block of an unfinished header or control frame
CARRY_SIZE: Final = STATE_SIZE + 7
HEARD: Final = STATE_SIZE + 8  # when the peer last gave a sign of life, in ns
IS_PINGING: Final = STATE_SIZE + 9  # whether it was pinged since
# this one, what is unfinished, and when that is too late, as settings of its own, in ns;
WANTS: Final = STATE_SIZE + 10  # what else becomes rows of a loop that collects
IS_PAUSED: Final = STATE_SIZE + 11  # whether Python has given up reading from the peer
MESSAGE_SINCE: Final = STATE_SIZE + 12  # when the unfinished message began; 0 for none
PING_AFTER: Final = STATE_SIZE + 13
GIVE_UP_AFTER: Final = STATE_SIZE + 14  # after PING_AFTER
FINISH_MESSAGE_IN: Final = STATE_SIZE + 15
MESSAGE: Final = STATE_SIZE + 16  # the block of the message under way, behind HEADROOM octets
MESSAGE_STORED: Final = STATE_SIZE + 17  # octets of it that are there
# and the rest is touched by few.
MESSAGE_ROOM: Final = STATE_SIZE + 18  # octets of the block
QUEUE: Final = STATE_SIZE + 19  # the block of what the kernel has not taken
QUEUE_START: Final = STATE_SIZE + 20
QUEUE_ROOM: Final = STATE_SIZE + 21
MEMBERSHIPS: Final = STATE_SIZE + 22  # topics that it is a member of
SLOW: Final = STATE_SIZE + 23  # those of them that have something waiting for it in Python
BOUND: Final = STATE_SIZE + 24  # 1 + the topic that a compiled handler publishes to; 0 for none
CLOSE_SINCE: Final = STATE_SIZE + 25  # when the closing handshake began
FINISH_CLOSE_IN: Final = STATE_SIZE + 26
NEXT_FREE: Final = STATE_SIZE + 27  # the free slot behind this free one, or -1
ENDING: Final = STATE_SIZE + 28  # why this side failed the connection; 0 if it did not
NEXT_DIRTY: Final = STATE_SIZE + 29  # as DIRTY, which it follows; 0 if it is not in that list
NEXT_THIRSTY: Final = STATE_SIZE + 30  # as THIRSTY, which it follows; 0 if it is not in that list
PONGS_QUEUED: Final = STATE_SIZE + 31  # octets of Pongs queued since the queue was last empty
LAST_PONG: Final = STATE_SIZE + 32  # octets of one that may be replaced, at the queue's end, or 0
LAST_SEND: Final = STATE_SIZE + 33  # the last of the sends being replayed that goes to it
SLOT_SIZE: Final = STATE_SIZE + 34  # whole lines

LINE: Final = 8
"""Integers of a line of the processor's cache, on which the first slot begins."""

# What a connection may want.
ROOM: Final = 1  # a row when octets have left its queue
PONGS: Final = 2  # a row for each Pong
PARTS: Final = 4  # rows for what there is of a message that is not whole yet
ENDINGS: Final = 8  # a row when this side fails the connection, whose opcode says why

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
# Of a loop that collects: see `_rows`.
COLLECTS: Final = 174  # whether messages become rows, to be answered later
SEND_LIMIT: Final = 175  # queued octets over which a send ends the connection
RECEIVE_AT: Final = 176  # where in the region the next receive goes
RECEIVE_STOP: Final = 177  # where the last one ended
ROW_COUNT: Final = 178
SOCKET_ROW: Final = 179  # the first row of the socket being served
IS_WAITED_FOR: Final = 180  # whether one of its rows is for Python to answer
IS_ENDING: Final = 181  # whether one of its rows ends it: what else it says is not heard
BLOCK_OCTETS: Final = 182  # octets of blocks in the rows
REPLAYED: Final = 183  # rows that have been replayed
SEND_COUNT: Final = 184
SENT: Final = 185  # sends that have been replayed
ARENA: Final = 186  # the block in which the sends' frames lie
ARENA_SIZE: Final = 187
PENDING_START: Final = 188  # a stretch of it that is the next to go to the slot being replayed
PENDING_STOP: Final = 189  # 0 for none
GONE: Final = 190  # the last slot that ended and is not free again, or -1; NEXT_FREE follows
DIRTY: Final = 191  # 1 + the last slot with a queue to flush when all is replayed, or -1
DROPPED: Final = 192  # sends to connections that are closed or closing
# Of topics: see `_fanout`.
TOPICS: Final = 193  # the address of their table
TOPIC_COUNT: Final = 194
UNSENT_TOPIC: Final = 195  # 1 + the last topic with something published in this turn, or -1
UNSENT_OCTETS: Final = 196  # of all of them
HAS_NEWS: Final = 197  # whether Python has members, or what was published, to look after
THIRSTY: Final = 198  # 1 + the last slot whose queue is empty and that Python has more for, or -1
BATCH_COUNT: Final = 199  # batches that Python has published
COMPRESSED_MOST: Final = 200  # octets of one receive from a peer that may compress
REGISTERS: Final = 201

# Then those batches, int64 (BATCH_FIELDS,) each, which Python writes.
BATCHES: Final = 201
BATCH_FIELDS: Final = 3
BATCH_TOPIC: Final = 0
BATCH_ADDRESS: Final = 1
BATCH_SIZE: Final = 2  # octets
BATCH_CAPACITY: Final = 64

# Then its rows, int64 (ROW_FIELDS,) each, which `collect` writes.
ROWS: Final = BATCHES + BATCH_FIELDS * BATCH_CAPACITY
ROW_FIELDS: Final = 6
FIELD_SLOT: Final = 0
FIELD_OPCODE: Final = 1  # for ENDED, the ending
FIELD_START: Final = 2  # of the payload, in the region or the block
FIELD_SIZE: Final = 3
FIELD_BLOCK: Final = 4  # 0 for the region
FIELD_ANSWER: Final = 5
ROWS_ENOUGH: Final = 512  # with as many, no other socket is served
ROW_CAPACITY: Final = 33_344  # which one receive of a server's empty frames may fill: of 2 octets

# Then its sends, int64 (SEND_FIELDS,) each, which Python writes.
SENDS_AT: Final = ROWS + ROW_FIELDS * ROW_CAPACITY
SEND_FIELDS: Final = 6
SEND_ROW: Final = 0  # it goes before the answer to this row
SEND_SLOT: Final = 1
SEND_SESSION: Final = 2  # which the slot must still be of
SEND_OPCODE: Final = 3
SEND_START: Final = 4  # of the payload in the arena; room for its header is before it
SEND_SIZE: Final = 5
SEND_CAPACITY: Final = 1_024
COLLECTING_REGISTERS: Final = SENDS_AT + SEND_FIELDS * SEND_CAPACITY

# Answers: those of `_handler`, and
DELIVER: Final = 3  # Python is to answer, with one octet at region[-ROW_CAPACITY + row]
PONG: Final = 4
CLOSED_BY_PEER: Final = 5
ENDED: Final = 6
FAILED_IN_PYTHON: Final = 7  # or in a compiled handler
PUBLISH: Final = 10  # to the topic that the connection is bound to
NOTICE: Final = 8  # nothing: the row only tells; its opcode is that of a Pong or one of these
INFLATE: Final = 9  # as DELIVER, of a compressed message, which Python is to inflate
FAILING: Final = 16  # FAILING + n is Python's answer where the connection is to end with -n

ROOM_MADE: Final = 16
PART_OF_TEXT: Final = 17  # PART + the message's opcode
PART: Final = 16

UNFINISHED: Final = 0x100  # in a send's opcode: the frame is not its message's last
COMPRESSED: Final = 0x40  # in a send's opcode: RSV1, which its frame is to have (RFC 7692 §6)

MERGED_MOST: Final = 2**16
"""Octets of a connection's sends that are put together, where others' are between them."""

BATCH_BLOCKS: Final = 2**23  # octets of blocks with which no other socket is served

MOST_PONGS: Final = 65_536
"""Octets of Pongs in a connection's queue above which the next takes the place of the last."""

HEADROOM: Final = 160
"""Octets before the received ones in the region: room for what was carried over."""

RECEIVE_SIZE: Final = 65_536
"""Octets of one receive."""

INFLATED_SIZE: Final = 4_096
"""Octets of one receive from a peer that may compress, of a loop that inflates as it goes: what
there is to inflate of it in one turn is a thousand times as much at the most."""

SCRATCH: Final = 256
"""Octets behind the headroom that a loop that collects receives nothing into."""

TAILROOM: Final = 160
"""Octets behind the received ones: room for a Close frame."""

LEAST_REGION: Final = HEADROOM + RECEIVE_SIZE + TAILROOM
"""Octets of the region of a loop that does not collect."""

WAKE_SLOT: Final = 2**31 - 1
"""The slot that the events of the wake-up descriptor carry."""

BROKEN: Final = -100
"""What a kernel returns for a connection that is past use and is to be ended.

No ending that a peer is told has this code.
"""

LOOP: Final = "int64[::1], int64[:,::1], uint8[::1], int64[:,::1], int32[::1]"
"""A loop in signatures: its registers, slots, region, table, and room for an event."""

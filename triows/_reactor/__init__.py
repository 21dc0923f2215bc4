"""The reactor driver: one loop, many sockets, two system calls a message.

**What a message costs.** A socket becomes readable; one ``recv`` takes what is
there, up to 64 KiB, into a region of memory that all connections of the loop
share; the octets are scanned, unmasked and answered where they lie; one ``send``
takes every answer. Everything between the two calls is compiled (see
`triows._kernels`), holds no GIL and allocates nothing. On loopback the two calls are
nine tenths of the cost, so the rest is about not making more of them:

- No read until EAGAIN. epoll is level-triggered here: if more is there, the next
  `epoll_wait` says so. The call that would only say "no more" is the dearest one
  that a loop can make.
- One send per socket and turn. The replies of a batch are moved up to follow each
  other, which costs a memmove of what is in the cache anyway.
- EPOLLOUT is asked for only while octets wait, EPOLLIN given up only while too
  many do.

**epoll's semantics, as far as they bite.** An event carries 64 bits of ours: the
slot of the connection and the slot's generation, so that an event which was fetched
before its connection ended, in the same batch, reaches no one, even if the slot or
the descriptor's number has a new owner. (`select.epoll` can only carry the
descriptor, hence libc's ``epoll_ctl``.) Before a descriptor is closed it is removed
from epoll: epoll watches open file descriptions, and a forked child that inherited
one would keep its events coming for ever. ``EPOLLERR`` and ``EPOLLHUP`` come unasked:
they are answered with a ``recv``, which says what happened. An epoll descriptor is
itself readable when it has events, which is how Trio waits for a loop that it drives.

**Whose memory it is.** The region belongs to the loop and is overwritten by the next
``recv``. A payload is a view of it, good until the handler returns. An idle connection
is a row of 384 octets. Three things can hang on it, each a block of libc's: an
unfinished header or control frame; an unfinished message, which the rest of a large
frame is received into directly, so that an octet is copied once at the most; and a queue
of what the kernel did not take.

**The reply in place.** Four octets of mask precede each payload from a client. A
reply's header is shorter than the request's by just these four, so that the reply is
always shorter than what it answers: the first of a batch stays where it is with its
header written over the old one, and those behind it never overtake what is still to be
read.

**Plain frames and others.** Nearly all frames are whole, unfragmented and under 64 KiB.
`serve_plain` serves these with everything in registers; at any other frame, or anything
wrong with one, it stops, and the general scan goes on from there. There is one set of
rules: what `serve_plain` does not accept it does not judge.

**Fairness.** A turn serves what one `epoll_wait` has reported, each socket once and for
64 KiB at the most, and looks at the clock after every fourth socket; after a millisecond it
leaves the rest for the next turn. epoll puts a socket that still has something to read
behind the others.

**Time.** Deadlines (keepalive, unfinished messages, closing) are times in the rows, and one
sweep over the rows four times a second finds those that have passed. A message then costs
no timer anything, and 15,000 connections cost 75 µs a sweep.

**Who drives.** By default a thread blocks in `epoll_wait` without the GIL (`ThreadDriver`):
a scheduling pass of Trio's costs ten messages' worth. Inline (`InlineDriver`), a task waits
for the epoll descriptor and takes turns for a millisecond at a stretch. Trio accepts and
shakes hands in either case, and hands the sockets over.

**Handlers in Python.** A loop that *collects* answers nothing while it receives: a turn's
messages become rows, their payloads stay where they were received, in a region of a MiB,
and callbacks are called for one row after the other. What they answer is an octet for each
row; what they send goes to an arena. The call that takes the next turn begins with a
*replay*: each row's sends, then its answer, and one system call for all that goes to one
socket. So Python pays for its callbacks and one call a turn. See `_callbacks`.

**Sessions** come by one way, whoever accepted them: a call in the loop's queue, then
``on_open``, then what was received before, in pieces that fit the region, as if it had just
come, then epoll. Each has a number that is never used again, and that says which loop it
belongs to; slots are used again.

**Senders** put messages in the loop's *outbox*: a queue under a lock, bounded in octets,
that wakes the loop for its first item only. The loop empties the outbox before it looks at
its other calls, and sends after them: who was given a session before sending finds it there.

**Threads that deliver.** What a compiled handler leaves to Python, or all if there is none,
is copied in the loop's thread and called for in Trio's, a turn's worth at a time, with one
wake-up unless Trio is at it anyway. The loop waits while too much is not handled yet; so do
its peers. What callbacks send goes back by the outbox. Whether a connection is over is for
the side of Trio's to say: when its ``on_close`` has been called. See `_courier`.

**The end.** A reactor ends with its last listener, session and sender. Trio's thread decides
that, asking each loop whether it is empty in the order in which sockets move through it, so
that none is missed on its way; and decides it at once, so that no one comes in between.
"""

from triows._reactor._callbacks import CallbackLoop as CallbackLoop
from triows._reactor._channels import ChannelDriver as ChannelDriver
from triows._reactor._channels import ChannelLoop as ChannelLoop
from triows._reactor._channels import Session as Session
from triows._reactor._channels import Terms as Terms
from triows._reactor._compiled import CompiledHandler as CompiledHandler
from triows._reactor._compiled import compiled as compiled
from triows._reactor._courier import CourierDriver as CourierDriver
from triows._reactor._handlers import Connection as Connection
from triows._reactor._handlers import Data as Data
from triows._reactor._handlers import Handler as Handler
from triows._reactor._handlers import SessionId as SessionId
from triows._reactor._handlers import as_message as as_message
from triows._reactor._handlers import check_plain as check_plain
from triows._reactor._handlers import handler_fn as handler_fn
from triows._reactor._loop import NO_LOOP as NO_LOOP
from triows._reactor._loop import Loop as Loop
from triows._reactor._loop import LoopStatistics as LoopStatistics
from triows._reactor._outbox import Outbox as Outbox
from triows._reactor._topics import Counts as Counts
from triows._reactor._topics import Home as Home
from triows._reactor._topics import Member as Member
from triows._reactor._topics import Seat as Seat
from triows._reactor._topics import Stage as Stage
from triows._reactor._topics import Topic as Topic
from triows._reactor._worker import Driver as Driver
from triows._reactor._worker import InlineDriver as InlineDriver
from triows._reactor._worker import ThreadDriver as ThreadDriver

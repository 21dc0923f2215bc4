"""The parts of a channel: what came in, what goes out, Pings, messages in parts, the end.

Each knows a driver by its protocol alone (`triows._driver`). `triows._websocket` puts
them together.
"""

from triows._channel._ending import CloseReason as CloseReason
from triows._channel._ending import ConnectionBroken as ConnectionBroken
from triows._channel._ending import Ending as Ending
from triows._channel._inbox import Inbox as Inbox
from triows._channel._outbox import Outbox as Outbox
from triows._channel._outbox import Payload as Payload
from triows._channel._parts import IncomingMessage as IncomingMessage
from triows._channel._parts import OutgoingMessage as OutgoingMessage
from triows._channel._pings import Pings as Pings

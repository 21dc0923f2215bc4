"""Broadcast channels: what one publishes, many receive, each as fast as it can.

**Whose problem a slow subscriber is.** Three kinds of channel are all called broadcast:
those that wait for the slowest, those that forget, and those that throw the slow out. Which
is right depends on who subscribes, not on what is published: the same prices go to a ledger,
which must have all, and to a screen, which needs the latest. So the *policy* is the
subscriber's, and so is the capacity. Publishing is one operation over all of them.

**What is promised.**

- All subscribers get the items in the same order, that in which they were published.
- What a subscriber does not get it is told of: `Lagged`, in the place of what is missing. Only
  under ``Policy.LATEST``, whose subscribers ask for that, an item that is replaced is no gap.
- `publish_nowait` waits for no one; where a subscriber must lose nothing and has no room, it
  publishes nothing, to no one. `publish` waits for all these to have room, then publishes at
  once: cancelled, it has published nothing. So what has been published has been given to all.
- A subscriber is in the channel from entering its block to leaving it. What it is given first
  of the history and what is published then follow each other without gap or double.
- Every item and every subscriber there was at the time make a pair, and each pair ends in one
  of three ways, which the statistics count: offered = delivered + dropped + closed.

**What it costs.** Publishing makes one entry, which all subscribers share, and appends it to
each one's backlog. Subscribing and leaving touch the subscriber's own place alone, but for the
history, which is given by reference. A subscriber holds at most its capacity.
"""

from triows._broadcast._attachment import Attachment as Attachment
from triows._broadcast._attachment import AttachmentStatistics as AttachmentStatistics
from triows._broadcast._attachment import Target as Target
from triows._broadcast._channel import ATTACHED as ATTACHED
from triows._broadcast._channel import BroadcastChannel as BroadcastChannel
from triows._broadcast._channel import BroadcastStatistics as BroadcastStatistics
from triows._broadcast._policies import Capacity as Capacity
from triows._broadcast._policies import Delivery as Delivery
from triows._broadcast._policies import Lagged as Lagged
from triows._broadcast._policies import Policy as Policy
from triows._broadcast._policies import TooSlow as TooSlow
from triows._broadcast._publisher import Publisher as Publisher
from triows._broadcast._seat import Tell as Tell
from triows._broadcast._subscription import Subscription as Subscription
from triows._broadcast._subscription import SubscriptionStatistics as SubscriptionStatistics

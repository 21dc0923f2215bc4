"""`serve` and `serve_listeners`: what they refuse, and how they end."""

import errno

import pytest
import trio

import triows


async def echo(ws):
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


class BrokenListener(trio.abc.Listener):
    """Accepts nothing.

    Args:
        error: what accepting raises.
    """

    def __init__(self, error) -> None:
        self.error = error
        self.is_closed = False

    async def accept(self):
        """Fail."""
        await trio.lowlevel.checkpoint()
        raise self.error

    async def aclose(self) -> None:
        """Note that this is closed."""
        self.is_closed = True
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "gone"), KeyboardInterrupt()], ids=repr)
async def test_what_ends_a_server_comes_out_as_it_was_raised(error) -> None:
    """A listener's error, or Ctrl-C, is in no group; the listener is closed."""
    listener = BrokenListener(error)

    with pytest.raises(type(error)) as raised:
        await triows.serve_listeners(echo, [listener])

    assert raised.value is error
    assert listener.is_closed

"""What the suites run over is what they say."""

from pathlib import Path

import pytest

import triows
from tests.conftest import Serve
from tests.not_over_the_reactor import NOT_OVER_THE_REACTOR

TESTS = Path(__file__).parents[1]


async def test_a_server_is_of_its_wires_driver(serve: Serve):
    """The reactor serves where its name stands, and a stream's server elsewhere."""
    served = await serve()
    await (await served.connect()).expect_echo()

    statistics = served.server.statistics()
    loop = statistics.loop if isinstance(served.server, triows.Server) else statistics.total
    is_reactor = served.wire.driver == "reactor"
    assert (loop.opened, loop.messages_sent) == ((1, 1) if is_reactor else (0, 0))


@pytest.mark.parametrize("name", NOT_OVER_THE_REACTOR)
def test_an_exclusion_is_of_a_test_that_there_is(name: str):
    """A test that was renamed does not take its exclusion with it."""
    texts = [path.read_text() for path in TESTS.glob("[ch]*/test_*.py")]

    assert sum(f"async def {name}(" in text for text in texts) == 1

"""What docs/explanation/cancellation.md says of cancelled sends, here and elsewhere."""

import pytest

from tests.interop.show_cancelled_sends import LIBRARIES, Outcome, show


async def test_what_arrives_is_what_was_sent(warm: None):
    """With triows, each send that returned arrives, and nothing of those that were cancelled."""
    outcome = await show("triows")
    assert outcome.is_exact, outcome
    assert outcome.cancelled
    assert outcome.returned


@pytest.mark.parametrize("library", [name for name in LIBRARIES if name != "triows"])
async def test_the_libraries_that_cannot_say_are_found_out(library: str):
    """Where a send awaits the transport itself, its cancellation tears the stream."""
    outcome = await show(library)
    assert outcome.cancelled
    assert not outcome.is_exact, "it can say now: docs/explanation/cancellation.md is out of date"


@pytest.mark.parametrize(
    ("outcome", "is_exact"),
    [
        (Outcome(returned=[0, 2], cancelled=[1], arrived=[0, 2]), True),
        (Outcome(returned=[0, 2], cancelled=[1], arrived=[0, 1, 2]), False),
        (Outcome(returned=[0, 2], cancelled=[1], arrived=[0]), False),
        (Outcome(returned=[0], arrived=[0], fault="reserved bits"), False),
    ],
    ids=["exact", "a ghost", "a loss", "torn"],
)
def test_the_script_tells_what_is_exact(outcome: Outcome, is_exact: object):
    """A message too many, one too few, or octets that are no frame are each seen, and said."""
    assert outcome.is_exact == is_exact
    assert ("sound; the sender" in str(outcome)) == (not outcome.fault)

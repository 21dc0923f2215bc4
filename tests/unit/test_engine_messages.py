"""Messages that arrive in more than one piece, and the octets they may hold together."""

import pytest

from triows._engine._messages import Assembly, Budget
from triows._errors import ProtocolError


def test_pieces_are_joined():
    """A message is its pieces in order; then the next may begin."""
    assembly = Assembly(Budget(100))
    assembly.add(memoryview(b"one "))
    assembly.add(memoryview(b"two"))

    assert (assembly.is_under_way, len(assembly)) == (True, 7)
    assert assembly.finish() == b"one two"
    assert (assembly.is_under_way, len(assembly)) == (False, 0)


def test_an_empty_piece_begins_a_message():
    """A message is under way even if none of its octets has come."""
    assembly = Assembly(Budget(100))
    assembly.add(memoryview(b""))

    assert assembly.is_under_way
    assert assembly.finish() == b""


def test_the_budget_is_shared():
    """Several connections hold so many octets together, and not one more."""
    budget = Budget(10)
    one, other = Assembly(budget), Assembly(budget)
    one.add(memoryview(b"123456"))
    other.add(memoryview(b"1234"))

    with pytest.raises(ProtocolError) as caught:
        other.add(memoryview(b"5"))
    assert caught.value.code == 1013
    assert (budget.held, len(other)) == (10, 4)


@pytest.mark.parametrize("end", [Assembly.finish, Assembly.discard])
def test_the_budget_is_given_back(end):
    """Whether a message is finished or forgotten, its octets are free again."""
    budget = Budget(10)
    assembly = Assembly(budget)
    assembly.add(memoryview(b"1234567890"))
    end(assembly)

    assert budget.held == 0


def test_nothing_to_discard():
    """Discarding between messages does nothing."""
    budget = Budget(10)
    Assembly(budget).discard()

    assert budget.held == 0

"""The nursery that does not wrap."""

import pytest
import trio

from triows._nursery import unwrapped_nursery


async def fail(error: BaseException) -> None:
    """Raise *error*."""
    raise error


async def test_nothing_raised_is_nothing_raised():
    """Tasks run, and the block ends after them."""
    ran = []

    async def run() -> None:
        await trio.lowlevel.checkpoint()
        ran.append(1)

    async with unwrapped_nursery() as nursery:
        nursery.start_soon(run)
    assert ran == [1]


async def test_one_exception_comes_out_as_it_was_raised():
    """The very object, with its own cause and context."""
    error = ValueError("lone")
    error.__cause__ = cause = KeyError("cause")
    with pytest.raises(ValueError, match="lone") as caught:
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(fail, error)
    assert caught.value is error
    assert error.__cause__ is cause
    assert not isinstance(error.__context__, BaseExceptionGroup)


async def test_the_bodys_exception_comes_out_as_it_was_raised():
    """So does that of the block, with the context that it had."""
    with pytest.raises(ValueError, match="lone") as caught:  # noqa: PT012 - the block is what raises
        async with unwrapped_nursery():
            try:
                raise KeyError("context")  # noqa: TRY301 - it is to be a context
            except KeyError:
                raise ValueError("lone")  # noqa: B904 - the context is what is tested
    assert isinstance(caught.value.__context__, KeyError)


async def test_a_group_of_the_bodys_own_stays_a_group():
    """Only what the nursery itself wrapped is unwrapped."""
    with pytest.raises(ExceptionGroup, match="own") as caught:
        async with unwrapped_nursery():
            raise ExceptionGroup("own", [ValueError()])
    assert len(caught.value.exceptions) == 1


async def test_several_exceptions_stay_together():
    """A group of more than one says what each was."""
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is what raises
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(fail, ValueError("one"))
            nursery.start_soon(fail, KeyError("two"))
    assert len(caught.value.exceptions) == 2


async def test_cancelling_is_left_to_whose_scope_it_is():
    """A cancelled block ends without a word, as a nursery's does."""
    with trio.CancelScope() as scope:
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
    assert scope.cancelled_caught

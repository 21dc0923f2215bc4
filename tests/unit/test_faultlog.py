"""The log of faults: what is written, how often, and what a fault is."""

import logging
from typing import Any

import pytest
import trio

from triows._faultlog import BURST, FaultLog, sift


async def test_a_fault_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture):
    """One record at level ERROR of the logger ``triows``."""
    error = ValueError("bug")
    FaultLog().report("a handler failed", error)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("triows", logging.ERROR)
    assert record.getMessage() == "a handler failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_a_flood_of_faults_is_counted_not_written(
    caplog: pytest.LogCaptureFixture, autojump_clock: Any
):
    """After a burst there is one record a second, which says how many were left out."""
    faults = FaultLog()
    for _ in range(BURST + 990):
        faults.report("a handler failed", ValueError())
    assert len(caplog.records) == BURST

    await trio.sleep(1)
    faults.report("a handler failed", ValueError())
    faults.report("a handler failed", ValueError())
    assert len(caplog.records) == BURST + 1
    assert "990" in caplog.records[-1].getMessage()

    await trio.sleep(1000)
    faults.report("a handler failed", ValueError())
    assert "1 faults" in caplog.records[-1].getMessage()


async def test_after_a_rest_there_may_be_a_burst_again(
    caplog: pytest.LogCaptureFixture, autojump_clock: Any
):
    """The allowance grows back, and not beyond one burst."""
    faults = FaultLog()
    for _ in range(2):
        caplog.clear()
        for _ in range(100):
            faults.report("a handler failed", ValueError())
        assert len(caplog.records) == BURST
        await trio.sleep(1000)


def test_faults_are_told_from_what_stops_tasks():
    """Exceptions are faults, anything else is not; a group is parted."""
    bug, stop = ValueError("bug"), KeyboardInterrupt()
    assert sift(bug) == (bug, None)
    assert sift(stop) == (None, stop)

    fault, rest = sift(BaseExceptionGroup("", [bug, BaseExceptionGroup("", [stop, KeyError()])]))
    assert isinstance(fault, ExceptionGroup)
    assert fault.split(KeyError)[0] is not None
    assert isinstance(rest, BaseExceptionGroup)
    assert rest.split(Exception)[0] is None
    assert sift(BaseExceptionGroup("", [stop]))[0] is None

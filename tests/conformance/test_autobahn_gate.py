"""The gate on Autobahn's report refuses what it should: each fault is planted."""

import json
import sys
from pathlib import Path

import attrs
import pytest

from tests.conformance.autobahn import (
    CORE,
    INFORMATIONAL,
    LARGE,
    NON_STRICT,
    Selection,
    Verdict,
    find_offences,
    read_report,
    running,
)

SMALL = Selection(sections=(3,), parallelism=1, timeout=1)


def passing(case: str, **differences: object) -> Verdict:
    """A good verdict on *case*, but for *differences*."""
    verdict = Verdict(case=case, behavior="OK", behavior_close="OK", was_clean=True)
    return attrs.evolve(verdict, **differences)


def section_3(**differences: object) -> list[Verdict]:
    """Good verdicts on section 3, but for *differences* in case 3.1."""
    return [passing("3.1", **differences), *(passing(f"3.{number}") for number in range(2, 8))]


def test_the_selections_have_the_published_sizes():
    """There are 247 cases in the core and 54 in section 9."""
    assert (CORE.size, LARGE.size) == (247, 54)


def test_a_good_report_passes():
    """A report without fault raises no offence."""
    assert find_offences(section_3(), SMALL) == []


def test_a_missing_case_is_an_offence():
    """A case without a verdict fails its section, though all others pass."""
    assert find_offences(section_3()[:-1], SMALL) == ["section 3: 6 cases, expected 7"]


def test_an_empty_report_is_an_offence(tmp_path: Path):
    """A server that was never reached has no verdicts, and that is no pass."""
    assert find_offences(read_report(tmp_path), SMALL) == ["section 3: 0 cases, expected 7"]


def test_a_case_that_was_not_asked_for_is_an_offence():
    """Verdicts on another section mean that the selection was misunderstood."""
    verdicts = [*section_3(), passing("4.1.1")]
    assert find_offences(verdicts, SMALL) == ["section 4: not asked for"]


@pytest.mark.parametrize("behavior", ["FAILED", "UNIMPLEMENTED", "NON-STRICT", "INFORMATIONAL"])
def test_a_bad_behaviour_is_an_offence(behavior: str):
    """Only OK will do for a case that is on no list of exceptions."""
    (offence,) = find_offences(section_3(behavior=behavior), SMALL)
    assert offence.startswith(f"3.1: {behavior}")


@pytest.mark.parametrize("close", ["FAILED", "UNCLEAN", "WRONG CODE", "FAILED BY CLIENT"])
def test_a_bad_close_is_an_offence(close: str):
    """A good message exchange does not excuse a bad closing handshake."""
    (offence,) = find_offences(section_3(behavior_close=close), SMALL)
    assert offence.startswith(f"3.1: close {close}")


def test_a_close_without_close_frames_is_an_offence():
    """Dropping TCP passes for OK in the suite's summary, but not here."""
    (offence,) = find_offences(section_3(was_clean=False), SMALL)
    assert offence == "3.1: the connection ended without a Close each way"


def test_every_offence_is_listed():
    """One line for each thing that is wrong, so that one run shows all."""
    verdicts = [attrs.evolve(verdict, behavior="FAILED") for verdict in section_3()]
    assert len(find_offences(verdicts, SMALL)) == 7


@pytest.mark.parametrize("case", sorted(NON_STRICT))
def test_ten_cases_may_be_non_strict(case: str):
    """Timing decides whether the messages before a fault are echoed before the Close."""
    selection = Selection(sections=(), parallelism=1, timeout=1)
    offences = find_offences([passing(case, behavior="NON-STRICT")], selection)
    assert offences == [f"section {case[0]}: not asked for"]


@pytest.mark.parametrize("case", sorted(INFORMATIONAL))
def test_three_cases_are_informational(case: str):
    """What the suite only observes is no offence, on the message or on the close."""
    verdict = passing(case, behavior="INFORMATIONAL", behavior_close="INFORMATIONAL")
    selection = Selection(sections=(), parallelism=1, timeout=1)
    assert find_offences([verdict], selection) == ["section 7: not asked for"]


def test_a_report_is_read_with_its_details(tmp_path: Path):
    """What the index leaves out comes from the case's own file."""
    summary = {"behavior": "OK", "behaviorClose": "OK", "reportfile": "case.json"}
    details = {"wasClean": False, "result": "as expected.", "resultClose": "dropped"}
    (tmp_path / "index.json").write_text(json.dumps({"agent": {"3.1": summary}}))
    (tmp_path / "case.json").write_text(json.dumps(details))

    assert read_report(tmp_path) == [passing("3.1", was_clean=False, result="as expected. dropped")]


def test_a_server_that_dies_is_noticed():
    """A server that ended during the run is a failure of its own."""
    script = "print('READY ws://127.0.0.1:1', flush=True)"
    with (
        pytest.raises(AssertionError, match="ended with status 0"),
        running([sys.executable, "-c", script]) as testee,
    ):
        testee.process.wait()


def test_a_server_that_says_nothing_is_not_waited_for():
    """A server that is not ready in time is a failure, not a hang."""
    script = "import time; time.sleep(60)"
    with (
        pytest.raises(AssertionError, match="no line within"),
        running([sys.executable, "-c", script], patience=0.2),
    ):
        pass

"""Autobahn's cases against triows, and the gate that judges what they report.

kosoku runs the case files of the Autobahn test suite, as a client against a
server of ours or as the server that a client of ours connects to, and leaves a
report in JSON. The gate counts the cases before it reads a verdict: a server
that dies makes cases vanish, and dropping TCP without a Close frame passes for
a good close unless it is asked about.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import attrs
import pytest

SECTION_SIZES = {
    1: 16,
    2: 11,
    3: 7,
    4: 10,
    5: 20,
    6: 145,
    7: 37,
    9: 54,
    10: 1,
    12: 90,
    13: 126,
}
"""How many cases each section of the suite has."""

NON_STRICT = frozenset(
    ["3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"],
)
"""Cases that flip between OK and NON-STRICT with timing: the echo of a message that
came before the fault may or may not leave before the Close."""

INFORMATIONAL = frozenset({"7.1.6", "7.13.1", "7.13.2"})
"""Cases for which the suite defines no other verdict, on the message and on the close."""


@attrs.frozen(kw_only=True)
class Selection:
    """Which sections to run, and how many of their cases at a time."""

    sections: tuple[int, ...]
    parallelism: int
    timeout: float
    """Seconds after which the run has failed."""
    cases: tuple[str, ...] = ()
    """Which cases; none for all of the sections."""
    share: int = 1
    """One in how many of a section's cases these are."""
    deflate: bool = False
    """Whether our side is to compress every message."""

    @property
    def size(self) -> int:
        """How many cases there are to be verdicts for."""
        return sum(self.size_of(section) for section in self.sections)

    def size_of(self, section: int) -> int:
        """How many there are of a section."""
        return SECTION_SIZES[section] // self.share

    @property
    def arguments(self) -> list[str]:
        """This selection on kosoku's command line."""
        globs = self.cases or tuple(f"{section}.*" for section in self.sections)
        return [*(word for glob in globs for word in ("-i", glob)), "-p", str(self.parallelism)]


CORE = Selection(sections=(1, 2, 3, 4, 5, 6, 7, 10), parallelism=8, timeout=90)
LARGE = Selection(sections=(9,), parallelism=4, timeout=100)
"""Messages of up to 16 MiB, in up to 65,536 fragments."""

ALL_DEFLATE = Selection(sections=(12, 13), parallelism=2, timeout=400, deflate=True)
"""A thousand compressed messages in each case, of 16 to 131,072 octets (RFC 7692)."""
DEFLATE = attrs.evolve(
    ALL_DEFLATE,
    cases=tuple(
        f"{section}.{group}.{case}"
        for section, groups in ((12, 5), (13, 7))
        for group in range(1, groups + 1)
        for case in (1, 6)
    ),
    share=9,
)
"""Those of them with messages of 16 octets, and of 8,192."""

SELECTIONS = pytest.mark.parametrize(
    "selection",
    [
        pytest.param(CORE, id="core", marks=pytest.mark.timeout(180)),
        pytest.param(LARGE, id="large", marks=pytest.mark.timeout(180)),
    ],
)
DEFLATE_SELECTIONS = pytest.mark.parametrize(
    "selection",
    [
        pytest.param(DEFLATE, id="deflate", marks=pytest.mark.timeout(450)),
        pytest.param(
            ALL_DEFLATE, id="all-deflate", marks=[pytest.mark.slow, pytest.mark.timeout(450)]
        ),
    ],
)


@attrs.frozen(kw_only=True)
class Verdict:
    """What the suite found in one case."""

    case: str
    behavior: str
    behavior_close: str
    was_clean: bool
    """Close frames went both ways before TCP ended."""
    result: str = ""

    @property
    def section(self) -> int:
        """The first number of the case."""
        return int(self.case.partition(".")[0])


def read_report(directory: Path) -> list[Verdict]:
    """The verdicts in a report on a single agent; none where nothing was reported."""
    index = directory / "index.json"
    if not index.exists():
        return []
    agents = json.loads(index.read_text())
    assert len(agents) == 1, sorted(agents)
    (cases,) = agents.values()
    return [_read_verdict(directory, case, summary) for case, summary in cases.items()]


def _read_verdict(directory: Path, case: str, summary: Mapping[str, str]) -> Verdict:
    """One case's summary, and from its own file what the summary leaves out."""
    details = json.loads((directory / summary["reportfile"]).read_text())
    return Verdict(
        case=case,
        behavior=summary["behavior"],
        behavior_close=summary["behaviorClose"],
        was_clean=details["wasClean"],
        result=f"{details['result']} {details['resultClose']}",
    )


def find_offences(verdicts: list[Verdict], selection: Selection) -> list[str]:
    """Everything in *verdicts* that the gate refuses, one line each; empty is a pass."""
    counts = Counter(verdict.section for verdict in verdicts)
    missing = [
        f"section {section}: {counts[section]} cases, expected {selection.size_of(section)}"
        for section in selection.sections
        if counts[section] != selection.size_of(section)
    ]
    strangers = [
        f"section {section}: not asked for"
        for section in counts
        if section not in selection.sections
    ]
    return missing + strangers + [line for verdict in verdicts for line in _judge(verdict)]


def expect_success(verdicts: list[Verdict], selection: Selection) -> None:
    """Refuse a report with offences, or with other cases than were selected."""
    offences = find_offences(verdicts, selection)
    assert not offences, "\n".join(["", *offences])
    assert len(verdicts) == selection.size


def _judge(verdict: Verdict) -> Iterator[str]:
    """What is wrong with one verdict."""
    accepted = {"OK"}
    accepted_close = {"OK"}
    if verdict.case in NON_STRICT:
        accepted |= {"NON-STRICT"}
    if verdict.case in INFORMATIONAL:
        accepted |= {"INFORMATIONAL"}
        accepted_close |= {"INFORMATIONAL"}
    if verdict.behavior not in accepted:
        yield f"{verdict.case}: {verdict.behavior}: {verdict.result}"
    if verdict.behavior_close not in accepted_close:
        yield f"{verdict.case}: close {verdict.behavior_close}: {verdict.result}"
    if not verdict.was_clean:
        yield f"{verdict.case}: the connection ended without a Close each way"


APIS = ("compiled", "callback")
"""What serves on the reactor beside channels: a compiled handler, or one in Python."""


def server_command(driver: str) -> list[str]:
    """The command that starts our echo server with room for section 9.

    *driver* is one of a server's, or names what serves on the reactor.
    """
    options = ["--port", "0", "--max-message", str(2**24)]
    if driver in APIS:
        options += ["--driver", "reactor", "--api", driver]
    else:
        options += ["--driver", driver]
    return [sys.executable, "-m", "triows", "echo", *options]


@attrs.frozen
class Testee:
    """A server process that is ready."""

    address: str
    """HOST:PORT."""
    process: "subprocess.Popen[str]"


@contextmanager
def running(command: list[str], *, patience: float = 60.0) -> Iterator[Testee]:
    """Run a server that says ``READY ws://HOST:PORT`` once it can be reached.

    Raises:
        AssertionError: it said nothing of the kind within *patience* seconds,
            or did not outlive the block.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = _read_line(process.stdout.readline, patience)
        assert line.startswith("READY ws://"), line
        yield Testee(line.removeprefix("READY ws://").strip().rstrip("/"), process)
        assert process.poll() is None, f"the server ended with status {process.returncode}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


def _read_line(readline: Callable[[], str], patience: float) -> str:
    """The next line of a pipe, which has no deadline of its own."""
    lines: SimpleQueue[str] = SimpleQueue()
    Thread(target=lambda: lines.put(readline()), daemon=True).start()
    try:
        return lines.get(timeout=patience)
    except Empty:
        raise AssertionError(f"no line within {patience} seconds") from None


def drive_server(address: str, selection: Selection, report: Path) -> list[Verdict]:
    """Run *selection* against the server at *address*; the suite is the client."""
    command = ["kosoku", "-m", "fuzzingclient", *selection.arguments, "-o", str(report), address]
    return _run_suite(command, selection, report)


def _run_suite(command: list[str], selection: Selection, report: Path) -> list[Verdict]:
    """Run kosoku to its end; its exit status says less than its report."""
    scripts = Path(sys.executable).parent
    command = [str(scripts / command[0]), *command[1:]]
    try:
        subprocess.run(command, capture_output=True, timeout=selection.timeout, check=False)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the suite took over {selection.timeout} seconds") from None
    return read_report(report)

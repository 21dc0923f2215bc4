"""Print the figures of docs/explanation/reactor.md, from the echo bench's results.

    python docs/reactor_figures.py [RESULTS.json] [--write]

With ``--write`` the page is brought up to date; a test fails while it is not. The
results are those of `benches/bench_echo.py`, by default benches/results/echo-reactor.json.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

HERE = Path(__file__).parent
PAGE = HERE / "explanation" / "reactor.md"
RESULTS = HERE.parent / "benches" / "results" / "echo-reactor.json"
BLOCK = re.compile(r"(?<=<!-- figures: begin -->\n).*?(?=<!-- figures: end -->)", re.DOTALL)
ENOUGH = 5  # rounds below which a median says little

Row: TypeAlias = Mapping[str, Any]


def render(results: Mapping[str, Any]) -> str:
    """Return the block between the page's markers."""
    shapes = results["shapes"]
    return "\n".join(
        [
            _describe(results),
            "",
            f"Microseconds of server CPU per message, and their ratio to {shapes[0]['peer']}:",
            "",
            *_table(
                shapes, lambda row: f"{row['median']['cpu_us']:.2f} ({row['ratio_to_peer']:.2f})"
            ),
            "",
            "Messages a second, and the latency of a batch in µs, median and 99th percentile:",
            "",
            *_table(shapes, _rate_and_latency),
            "",
        ]
    )


def _describe(results: Mapping[str, Any]) -> str:
    machine, versions, itself = results["machine"], results["versions"], results["a_a"]
    first, *_ = itself["servers"]
    row = itself["servers"][first]
    rounds = len(row["samples"])
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"`{results['command']}`, on {results['date']}, commit {results['commit']}.",
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}; {packages}.",
        f"Medians of {rounds} round{'s' * (rounds != 1)}.",
        f"A/A at {itself['shape']}, {first} to itself: {row['ratio_to_peer']:.3f}{_mark(row)}.",
        "¹ the server was *not saturated*; ² the generator did *not outrun* it:",
        "such a cell says how things stood, and is no verdict.",
    ]
    if rounds < ENOUGH:
        lines.append(f"**Fewer than {ENOUGH} rounds: a trial of the bench, not a measurement.**")
    return "\n".join(lines)


def _table(shapes: list[Mapping[str, Any]], show: Callable[[Row], str]) -> list[str]:
    """Return a table with a line for each server and a column for each shape."""
    names = list(shapes[0]["servers"])
    return [
        "| server | " + " | ".join(table["shape"] for table in shapes) + " |",
        "|---" * (len(shapes) + 1) + "|",
        *(
            f"| {name} | "
            + " | ".join(
                show(table["servers"][name]) + _mark(table["servers"][name]) for table in shapes
            )
            + " |"
            for name in names
        ),
    ]


def _rate_and_latency(row: Row) -> str:
    middle = row["median"]
    return f"{middle['rate']:,.0f}; {middle['p50_us']:,.0f}, {middle['p99_us']:,.0f}"


def _mark(row: Row) -> str:
    """Return the footnote signs of what the bench doubted."""
    marks = {"not saturated": "¹", "not outrun": "²"}
    return " " * bool(row["doubts"]) + "".join(marks[doubt] for doubt in row["doubts"])


def main() -> None:
    """Print the block, or write it into the page."""
    paths = [Path(argument) for argument in sys.argv[1:] if argument != "--write"]
    block = render(json.loads((paths or [RESULTS])[0].read_text()))
    if "--write" in sys.argv:
        PAGE.write_text(BLOCK.sub(lambda _: block, PAGE.read_text(), count=1))
    else:
        print(block, end="")


if __name__ == "__main__":
    main()

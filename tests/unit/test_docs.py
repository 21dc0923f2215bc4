"""The documentation: its snippets are the examples', its commands those that CI runs."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import triows
from triows._kernels import slots as s

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(
    r"(?:<!-- snippet: (\S+) -->\n)?^```(?:python|js)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)")


def name(page: Path) -> str:
    """Return the page's name for test ids."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_snippets_are_parts_of_examples(page) -> None:
    """Each Python block says which file it is from, and stands there word for word."""
    for source, snippet in PYTHON.findall(page.read_text()):
        assert source, f"a snippet of no file: {snippet[:60]!r}"
        assert snippet in (ROOT / source).read_text()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page) -> None:
    """Each relative link to another page names one that is there."""
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).is_file(), target


def test_the_index_leads_everywhere() -> None:
    """Each page is linked by the index, and listed in the site's navigation."""
    linked = set(LINK.findall((ROOT / "docs/index.md").read_text()))
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.name != "README.md"}

    assert linked == pages - {"index.md"}
    assert listed == pages


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_tests_that_pages_name_exist(page) -> None:
    """Each test that a page names, as path::name, is there."""
    for path, test in re.findall(r"`(tests/\S+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), test


def test_each_capability_and_rule_of_the_reactor_names_its_test() -> None:
    """Each row of the last two tables of docs/how-to/embed.md ends with a test that exists."""
    _, _, promises = (
        (ROOT / "docs/how-to/embed.md").read_text().partition("## What you can rely on")
    )
    rows = re.findall(r"^\| (?!-|capability|rule).*\|$", promises, re.MULTILINE)
    rows = [row for row in rows if not row.startswith("|---")]

    assert len(rows) >= 25
    for row in rows:
        *_, last = row.strip("| ").split(" | ")
        named = re.findall(r"`(tests/unit/\w+\.py)::(test_\w+)`", last)
        assert named, row
        for path, test in named:
            assert f"def {test}(" in (ROOT / path).read_text(), test


def test_the_readme_test_command_is_found_by_ci() -> None:
    """The README holds the one line that .ci/run takes from it."""
    found = re.findall(
        r"^python3 -m venv .* -m pytest$", (ROOT / "README.md").read_text(), re.MULTILINE
    )

    assert len(found) == 1


def test_the_readme_shows_the_whole_echo_server() -> None:
    """The README's example is the file, not a part of it."""
    (_, snippet), *_ = PYTHON.findall((ROOT / "README.md").read_text())

    assert snippet == (ROOT / "examples" / "echo_server.py").read_text()


def test_each_dependency_has_its_reason() -> None:
    """docs/explanation/dependencies.md speaks of each package that triows needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/explanation/dependencies.md").read_text()

    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"^(\| |\*\*){name}\b", page, re.MULTILINE), name


def test_the_reference_lists_every_public_name() -> None:
    """docs/reference/api.md has each name of ``triows.__all__``, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/reference/api.md").read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert listed == set(triows.__all__)


def test_the_reactors_page_has_the_sizes_of_the_code() -> None:
    """What the page and the essay say of the loop's memory is what the loop has."""
    page = (ROOT / "docs/explanation/reactor.md").read_text()
    essay = " ".join(triows._reactor.__doc__.split())

    assert f"| {s.HEADROOM} + {s.RECEIVE_SIZE:,} + {s.TAILROOM} octets | the loop |" in page
    assert f"| a slot | {8 * s.SLOT_SIZE} octets |" in page
    assert f"is a row of {8 * s.SLOT_SIZE} octets" in essay


@pytest.fixture
def figures():
    """The script that makes the figures of the reactor's page."""
    return runpy.run_path(str(ROOT / "docs" / "reactor_figures.py"))


def test_the_reactors_figures_are_those_of_the_results(figures) -> None:
    """The page's block is what the script prints, and so comes from the results file."""
    if not figures["RESULTS"].exists():
        pytest.skip(f"there is no {figures['RESULTS'].name} to compare the page with")
    results = json.loads(figures["RESULTS"].read_text())

    blocks = figures["BLOCK"].findall(figures["PAGE"].read_text())

    assert blocks == [figures["render"](results)]


def made_up_results(rounds: int, doubts: list[str]) -> dict:
    """Results of a bench that was never run."""
    sample = {"cpu_us": 4.321, "rate": 123_456.7, "p50_us": 80.4, "p99_us": 1234.5}
    row = {"median": sample, "ratio_to_peer": 0.987, "samples": [sample] * rounds, "doubts": doubts}
    itself = {"shape": "9/8", "peer": "ours'", "servers": {"ours": row, "ours'": row}}
    table = {"shape": "1/2x3", "peer": "theirs", "servers": {"ours": row, "theirs": row}}
    return {
        "command": "python bench.py",
        "date": "2001-02-03",
        "commit": "c0ffee",
        "machine": {"processor": "Z80", "cores": 1, "kernel": "0.1"},
        "versions": {"python": "3.11"},
        "a_a": itself,
        "shapes": [table],
    }


def test_figures_come_with_their_circumstances(figures) -> None:
    """The block says what ran where, the A/A ratio, and each cost, ratio, rate and latency."""
    block = figures["render"](made_up_results(5, []))

    assert "`python bench.py`, on 2001-02-03, commit c0ffee" in block
    assert "Medians of 5 rounds" in block
    assert "A/A at 9/8, ours to itself: 0.987." in block
    assert "their ratio to theirs" in block
    assert "| ours | 4.32 (0.99) |" in block
    assert "| theirs | 123,457; 80, 1,234 |" in block
    assert "not a measurement" not in block


def test_doubtful_figures_are_marked(figures) -> None:
    """Rows that the bench doubted have a sign at each cell; so has a page of too few rounds."""
    block = figures["render"](made_up_results(4, ["not saturated", "not outrun"]))

    assert "| ours | 4.32 (0.99) ¹² |" in block
    assert "| theirs | 123,457; 80, 1,234 ¹² |" in block
    assert "A/A at 9/8, ours to itself: 0.987 ¹²." in block
    assert "Fewer than 5 rounds: a trial of the bench, not a measurement" in block


def test_each_threat_has_the_tests_that_it_claims() -> None:
    """A file that an item points to has a test of its number; a test that it names exists."""
    page = (ROOT / "docs/explanation/threat-model.md").read_text()
    claims = [
        (item, path, name)
        for item, cell in re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", page, re.MULTILINE)
        for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", cell)
    ]

    assert claims
    for item, path, name in claims:
        begin = f"def {name}(" if name else f"def test_item_{item}_"
        assert begin in (ROOT / path).read_text(), (item, path, name)


def test_each_item_is_listed_once() -> None:
    """The threat model's items are numbered from 1 without a gap."""
    page = (ROOT / "docs/explanation/threat-model.md").read_text()
    items = [int(item) for item in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]

    assert items == list(range(1, len(items) + 1))

"""The documentation: its snippets are the examples', its commands those that CI runs."""

import re
from pathlib import Path

import pytest

import triows

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(
    r"(?:<!-- snippet: (\S+) -->\n)?^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE
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


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_tests_that_pages_name_exist(page) -> None:
    """Each test that a page names, as path::name, is there."""
    for path, test in re.findall(r"`(tests/\S+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), test


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


def test_the_reference_lists_every_public_name() -> None:
    """docs/reference/api.md has each name of ``triows.__all__``, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/reference/api.md").read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert listed == set(triows.__all__)


def test_each_threat_has_the_tests_that_it_claims() -> None:
    """A numbered item that points to a file has at least one test of its number there."""
    page = (ROOT / "docs/explanation/threat-model.md").read_text()
    claims = re.findall(r"^\| (\d+) \|.*\| `(tests/[\w/]+\.py)` \|$", page, re.MULTILINE)

    assert claims
    for item, path in claims:
        assert f"def test_item_{item}_" in (ROOT / path).read_text(), item


def test_each_item_is_listed_once() -> None:
    """The threat model's items are numbered from 1 without a gap."""
    page = (ROOT / "docs/explanation/threat-model.md").read_text()
    items = [int(item) for item in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]

    assert items == list(range(1, len(items) + 1))

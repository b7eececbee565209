"""The pages lead somewhere: links, pictures, commands, and what CONTRIBUTING says of the house."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lab import ROOT
from reaper.client.drivers.base import Driver
from reaper.client.drivers.connection import Connection
from reaper.engines.base import Engine, Server

from .test_architecture import FLOORS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")])
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def unfenced(path: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(
        r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def prose(path: Path) -> str:
    """The page without any code."""
    return re.sub(r"`[^`]*`", "", unfenced(path))


def links(path: Path) -> list[str]:
    """Where its links and pictures lead; inside of a link's text stands a picture at most."""
    text = prose(path)
    named = re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    return re.findall(r"\]\(([^()]*)\)", text) + re.findall(r"<(https?:[^>]*)>", text) + named


def anchors(path: Path) -> Iterator[str]:
    """Its headings as GitHub names them: the second of one name gets a number."""
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.+)$", unfenced(path), re.MULTILINE):
        name = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        yield f"{name}-{seen[name]}" if seen[name] else name
        seen[name] += 1


CONTRIBUTING = unfenced(ROOT / "CONTRIBUTING.md")


def test_the_pages_are_found() -> None:
    """The tests below would prove nothing of a page that is not there, or in which no link is
    seen.
    """
    names = {path.name for path in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= names
    assert {"docs/demo.svg", "docs/dashboard.svg", "#the-retry-client"} <= set(
        links(ROOT / "README.md")
    )
    assert "README.md#two-commands" in links(ROOT / "CONTRIBUTING.md")


@page
def test_links_within_lead_somewhere(page: Path) -> None:
    """A path exists in the repository, beside the page that names it, and a part is a heading
    there.
    """
    for link in links(page):
        if not urlsplit(link).scheme:
            path, _, part = link.partition("#")
            goal = page.parent / path if path else page
            assert goal.exists(), link
            assert goal.resolve().is_relative_to(ROOT), link
            assert not part or part in set(anchors(goal)), link


@page
def test_links_to_elsewhere_are_well_formed(page: Path) -> None:
    """They are not fetched: https, a host's name, nothing that a sentence left at the end."""
    for link in links(page):
        if urlsplit(link).scheme:
            assert re.fullmatch(
                r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w.~%+/-]*)?(\?[\w.=&-]+)?(#[\w-]+)?", link
            ), link
            assert link[-1] not in ".,;", link


@page
def test_no_bare_address(page: Path) -> None:
    """An address that stands in the text is a link or code, or GitHub would guess where it ends."""
    text = re.sub(
        r"\]\([^()]*\)|<https?:[^>]*>|^\[[^\]]+\]:.*", "", prose(page), flags=re.MULTILINE
    )
    assert "://" not in text


def test_pictures_have_words() -> None:
    """Who does not see a picture of the README is told what it shows."""
    pictures = re.findall(r"!\[([^\]]*)\]\(", prose(ROOT / "README.md"))
    assert len(pictures) >= 2
    assert all(len(words.split()) > 10 for words in pictures)


def test_the_first_screen() -> None:
    """What it is, for whom, and the demo's picture stand before anything else."""
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:16]
    assert first[0].startswith("# ")
    assert any("for people" in line for line in first)
    assert any("(docs/demo.svg)" in line for line in first)


@page
def test_every_goal_of_make_exists(page: Path) -> None:
    """What a page tells people to make, the Makefile can."""
    goals = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = re.findall(
        r"^make (?:-\w )?([a-z][\w-]*)|`make (?:-\w )?([a-z][\w-]*)", page.read_text(), re.MULTILINE
    )
    assert {one or other for one, other in told} <= set(goals)


# CONTRIBUTING


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose first column is called so."""
    (found,) = re.findall(
        rf"^\| {header} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", CONTRIBUTING, re.MULTILINE
    )
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.splitlines()]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_house_has_these_floors() -> None:
    """Every room stands on the floor that the architecture's test gives it."""
    assert [set(quoted(rooms)) for _, rooms in rows("floor")] == list(FLOORS)


@pytest.mark.parametrize(
    "protocol", [Driver, Connection, Engine, Server], ids=lambda protocol: protocol.__name__
)
def test_what_an_engine_must_have(protocol: type) -> None:
    """The table names each member of the protocol, in the code's order, and the file that it stands
    in.
    """
    members = [
        *protocol.__annotations__,
        *(name for name in vars(protocol) if not name.startswith("_")),
    ]
    ((_, file, named),) = [row for row in rows("protocol") if quoted(row[0]) == [protocol.__name__]]
    assert quoted(named) == members
    assert ROOT / quoted(file)[0] == ROOT / f"{protocol.__module__.replace('.', '/')}.py"


def test_the_paths_it_names_exist() -> None:
    """Every file and folder, but those of the engine that is yet to be written; of the package's
    the end is enough.
    """
    paths = {
        name for name in quoted(CONTRIBUTING) if re.search(r"\.(py|yaml)$|^(tests|reaper)/", name)
    }
    named = {path for path in paths if "NAME" not in path}
    places = (ROOT, ROOT / "reaper", ROOT / "reaper" / "client")
    assert [path for path in named if not any((place / path).exists() for place in places)] == []
    assert len(named) > 20


# CHANGELOG


def test_the_changelog_keeps_to_its_format() -> None:
    """Unreleased comes first, then versions with their dates, the newest first; changes are of the
    six kinds.
    """
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [
        re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", heading)
        for heading in headings[1:]
    ]
    assert all(released)
    found = [
        (tuple(map(int, match.groups()[:3])), date.fromisoformat(match[4]))
        for match in released
        if match
    ]
    assert found == sorted(found, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_changelog_knows_the_version() -> None:
    """The package's version has been released, or is what Unreleased becomes."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}] - " in CHANGELOG or f"This becomes {version}" in CHANGELOG

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from crossfire_core import config_reference
from crossfire_core.cli.shell import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted(DOCS.glob("design/*.md")),
]
NOTES = sorted(DOCS.glob("notes/*.md"))  # of older programs: their commands need not work
# Words that make a page read as if it were translated.
REFUSED = r"so-manieth|\blikewise\b|\bof before\b|\bwanted are\b|\btak\w+ along\b|\bmended?\b"
GROUP = typer.main.get_command(app)
NEEDS_ROS = {"play", "replay", "warm-up"}


def fenced(text):
    """Commands of all shell blocks, continued lines joined."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S):
        yield from filter(None, (line.strip() for line in block.replace("\\\n", " ").split("\n")))


def commands():
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        inline = re.findall(r"`(crossfire [a-z]+[^`]*)`", text)
        for line in [*fenced(text), *inline]:
            if line.startswith("crossfire "):
                found.append(pytest.param(line, id=f"{page.stem}: {line}"))
    return found


def anchors(text):
    """GitHub's anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def links():
    found = []
    for page in (*PAGES, *NOTES):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                found.append(pytest.param(page, target, id=f"{page.name}: {target}"))
    return found


@pytest.mark.parametrize("line", commands())
def test_every_quoted_command_is_understood(line):
    name, *arguments = shlex.split(line.split(" #")[0])[1:]
    if name not in GROUP.commands and name in NEEDS_ROS:
        pytest.skip(f"crossfire {name} comes with crossfire_ros.commands, which is not here")
    assert name in GROUP.commands, f"there is no command {name}"
    complete = not re.search(r"[A-Z]{3,}", line) and arguments
    if complete:
        GROUP.commands[name].make_context(name, arguments)


@pytest.mark.parametrize(("page", "target"), links())
def test_every_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = (page.parent / path) if path else page
    assert file.is_file(), f"{page.name} links to {target}"
    if anchor:
        assert anchor in anchors(file.read_text(encoding="utf-8"))


def test_the_configuration_page_is_what_the_program_says():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == config_reference.reference(), (
        "make it again: python -m crossfire_core.config_reference > docs/configuration.md"
    )


def test_settings_named_in_the_pages_exist():
    known = {
        name
        for title, prefix in (("Localization", "localization."), ("Tracking", "tracking."))
        for room in config_reference.ROOMS
        if room.title == title
        for name in (prefix + n for n, _, _ in config_reference.settings(room.kind()))
    }
    for page in PAGES:
        for name in re.findall(r"`((?:localization|tracking)\.[a-z_]+)", page.read_text("utf-8")):
            assert name in known, f"{page.name} names {name}"


def test_every_page_is_in_the_table_of_contents():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = {path for entry in nav for path in entry.values()}
    assert listed >= {str(p.relative_to(DOCS)) for p in PAGES if DOCS in p.parents}
    assert all((ROOT / "docs" / path).is_file() for path in listed)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_launch_arguments_in_the_pages_exist(page):
    launches = re.findall(r"(\w+\.launch\.py)((?:\s+\\?\s*\w+:=\S+)*)", page.read_text("utf-8"))
    for file, arguments in launches:
        source = (ROOT / "launch" / file).read_text(encoding="utf-8")
        for name in re.findall(r"(\w+):=", arguments):
            assert re.search(rf"[\"']{name}[\"']", source), f"{file} has no argument {name}"


def test_every_situation_is_shown_by_a_test_that_exists():
    page = (ROOT / "docs" / "ros_interface.md").read_text(encoding="utf-8")
    rows = page.partition("## Situations")[2].partition("\n## ")[0].split("\n| ")[3:]
    tests = "".join(f.read_text("utf-8") for f in (ROOT / "test").glob("test_*.py"))
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"nothing shows: {row}"
        missing = [name for name in named if f"def {name}(" not in tests]
        assert not missing, f"there is no {missing}"


def test_tests_that_are_named_are_there():
    text = (ROOT / "docs" / "recordings.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    absent = [
        (file, name)
        for file, name in named
        if f"def {name}(" not in (ROOT / "test" / file).read_text(encoding="utf-8")
    ]
    assert named and not absent


def texts():
    """Pages, and all that the program says of itself: docstrings, help, messages."""
    for folder in ("crossfire_core", "crossfire_ros", "launch", "tools"):
        yield from sorted((ROOT / folder).rglob("*.py"))
    yield from (*PAGES, *NOTES, ROOT / "config" / "localize.yaml")


def test_refused_words_are_not_used():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := re.search(REFUSED, line, re.IGNORECASE))
    ]
    assert not found, found


def test_files_of_the_first_tasks_hold_what_the_page_says():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = page.partition("## Where to begin")[2].partition("\n\nA reader")[0].split("\n| ")[3:]
    assert len(rows) == 10
    for row in rows:
        _, opened, there = row.rstrip(" |").split(" | ")
        files = re.findall(r"`([^`]+)`", opened)
        assert 1 <= len(files) <= 2, row
        whole = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        for name in re.findall(r"`(\w+)`", there):
            assert re.search(rf"\b{name}\b", whole), f"{files} have no {name}"

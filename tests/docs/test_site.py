"""The site: built without one warning, every page in the navigation, every link answered, all of it at home."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from tests.docs.pages import DOCS

STRICT = ("--fail-on-warning", "--keep-going", "--nitpicky", "--quiet")
OF_SPHINX = {"genindex.html", "search.html"}


def build(kind: str, to: Path, source: Path = DOCS) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        *STRICT,
        "-b",
        kind,
        "-d",
        str(to / "doctrees"),
        str(source),
        str(to / kind),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build("html", folder)
    assert done.returncode == 0, f"{done.stderr}\nEvery page belongs into a list of docs/index.md."
    return folder / "html"


def pages(site: Path) -> dict[str, str]:
    return {str(path.relative_to(site)): path.read_text() for path in sorted(site.rglob("*.html"))}


def links(text: str) -> list[str]:
    return [unescape(found) for found in re.findall(r'(?:href|src)="([^"]*)"', text)]


def test_every_page_is_reached_from_the_navigation(site):
    sidebar = (site / "index.html").read_text().split('class="sidebar-tree"')[1].split("</aside>")[0]
    reached = {link.partition("#")[0] for link in links(sidebar)} | {"index.html"}
    of_decisions = (site / "decisions/README.html").read_text().split('class="sidebar-tree"')[1].split("</aside>")[0]
    reached |= {f"decisions/{link.partition('#')[0]}" for link in links(of_decisions)}
    assert set(pages(site)) - OF_SPHINX <= reached
    assert {str(path.relative_to(DOCS).with_suffix(".html")) for path in DOCS.rglob("*.md")} <= set(pages(site))


def test_every_link_leads_to_a_page_and_a_place_on_it(site):
    texts, broken = pages(site), []
    for name, text in texts.items():
        for link in links(text):
            if re.match(r"[a-z]+:", link) or link == "#":
                continue
            path, _, place = link.partition("#")
            target = (site / name).parent / path.partition("?")[0] if path else site / name
            if not target.exists():
                broken.append(f"{name}: {link}")
            elif place and target.suffix == ".html" and f'id="{place}"' not in target.read_text():
                broken.append(f"{name}: {link}: no such place")
    assert not broken


def test_the_site_fetches_nothing_from_elsewhere(site):
    fetched = [
        f"{name}: {tag}"
        for name, text in pages(site).items()
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text)
        if re.search(r'(?:href|src)="(?:https?:)?//', tag)
    ]
    assert not fetched


def test_a_broken_link_and_a_page_nobody_can_reach_end_the_build(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text((DOCS / "conf.py").read_text())
    lists = "# A\n\n## Reference\n\n- [Commands](commands.md): all.\n- [Inventory](inventory.md): all.\n"
    (source / "index.md").write_text(lists)
    (source / "commands.md").write_text("# Commands\n\n[gone](gone.md), [no such place](inventory.md#nowhere)\n")
    (source / "inventory.md").write_text("# Inventory\n")
    (source / "lonely.md").write_text("# Nobody links here\n")
    done = build("html", tmp_path, source)
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "nowhere" in done.stderr
    assert "lonely.md: WARNING: document isn't included in any toctree" in done.stderr


def test_the_man_pages_hold_every_command_and_every_key(tmp_path):
    done = build("man", tmp_path)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "man/nixkube-deploy.1").read_text().replace("\\-", "-")
    inventory = (tmp_path / "man/nixkube-deploy-inventory.5").read_text().replace("\\-", "-")
    assert "deploy apply inventory.yaml" in commands
    assert "nixkube-lab fault add" in commands
    assert "max_unavailable" in inventory

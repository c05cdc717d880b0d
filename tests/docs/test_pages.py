"""The documentation says what the program does, because it is written from it or held against it."""

import re
from pathlib import Path

import pytest

from nixkube_deploy.inventory.grammar import INVENTORY
from nixkube_deploy.inventory.reference import records
from nixkube_deploy.model.error import Locked, Refused, UsageError
from tests.docs.pages import DOCS, PARTS, WHOLE, page

ROOT = DOCS.parent


@pytest.mark.parametrize("name", [*WHOLE, *PARTS])
def test_a_generated_page_is_what_would_be_generated_now(name):
    assert (DOCS / name).read_text() == page(name), "run: python -m tests.docs.pages"


def test_every_key_of_the_inventory_is_documented():
    text = (DOCS / "inventory.md").read_text()
    for record in records(INVENTORY, {}).values():
        section = text.split(f"### {record.name}\n")[1].split("\n### ")[0]
        assert not [key for key in record.fields if f"| `{key}` |" not in section]


def test_every_exit_code_is_documented():
    text = (DOCS / "exit-codes.md").read_text()
    codes = {int(code) for code in re.findall(r"^## (\d+):", text, re.MULTILINE)}
    assert codes == {0, 1, 2, 3, 4, 5, 6, 130}
    assert {UsageError.exit_code, Refused.exit_code, Locked.exit_code} <= codes


def test_links_between_pages_lead_somewhere():
    pages = [*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md"]
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
        if not (path.parent / Path(target)).exists()
    ]
    assert not broken

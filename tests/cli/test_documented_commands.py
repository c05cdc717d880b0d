"""Every command that the README and docs/ show does what they say, page by page, each page on a lab of its own."""

import os
import re
import shutil

import pytest

from tests.cases import own_numbers, side_by_side
from tests.docs.stages import ELSEWHERE, ENDS_OTHERWISE, NOT_RUN, STAGES, Stage
from tests.docs.transcripts import ROOT, Command, commands, matches, pages, run_all

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

PAGES = pages()
ALL = os.environ.get("NIXKUBE_DOCS") == "all"
AT_ONCE = 4


def every_command() -> list[Command]:
    return [each for page in PAGES for each in commands(page)]


def missing(page: str) -> frozenset[str]:
    """Commands whose program this machine does not have."""
    programs = {each.text: re.findall(r"(?:^|-- |\| )(kubectl|jq|ssh)\b", each.text) for each in commands(page)}
    return frozenset(text for text, names in programs.items() if any(shutil.which(name) is None for name in names))


@pytest.fixture(scope="module")
def transcripts(request, tmp_path_factory):
    def one(number, folder):
        page = PAGES[number]
        chosen = [each for each in commands(page) if each.text not in frozenset(NOT_RUN) | missing(page)]
        return run_all(chosen, folder, STAGES.get(page, Stage()))

    wanted = [number for number in own_numbers(request) if ALL or not STAGES.get(PAGES[number], Stage()).long]
    with side_by_side(one, wanted, tmp_path_factory.mktemp("pages"), AT_ONCE) as futures:
        yield futures


@pytest.mark.parametrize("number", range(len(PAGES)), ids=PAGES)
def test_every_command_of_a_page_does_what_the_page_says(number, transcripts):
    page = PAGES[number]
    if number not in transcripts:
        pytest.skip(f"{page} takes long: nox -s docs")
    wrong = [done.wrong for done in transcripts[number].result() if done.wrong]
    assert not wrong, "\n\n".join(wrong)
    if absent := missing(page):
        pytest.skip(f"all done, but for what this machine lacks the program: {'; '.join(sorted(absent))}")


def test_what_is_not_run_is_shown_somewhere_and_has_a_reason():
    shown = {each.text for each in every_command()}
    assert set(NOT_RUN) <= shown, "a command that no page shows any longer"
    assert set(ENDS_OTHERWISE) <= shown
    assert set(STAGES) <= set(PAGES), "a stage for a page that is gone"
    assert all(len(reason) > len("no lab") for reason in NOT_RUN.values())


def test_what_is_not_run_is_no_command_of_ours():
    alone = [text for text, reason in NOT_RUN.items() if reason != ELSEWHERE]
    ours = [text for text in alone if re.search(r"\b(deploy|nixkube-deploy|nixkube-lab) ", text)]
    assert not ours, "deploy and nixkube-lab can be run in a lab"
    assert len(NOT_RUN) <= 8, "too many: let the lab learn them"


def test_what_is_said_not_to_run_in_a_lab_does_not(tmp_path):
    said = [Command(page="", line=0, text=text) for text, reason in NOT_RUN.items() if reason != ELSEWHERE]
    went = [done.command.text for done in run_all(said, tmp_path, Stage()) if done.code == 0]
    assert not went, "run these like all others"


def test_no_command_hides_in_another_kind_of_block():
    hidden = [
        f"{page}: {line}"
        for page in ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if kind != "console" and line.startswith("$ ")
    ]
    assert not hidden


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (("a b",), "a   b", True),
        (("a b",), "a c", False),
        (("a", "..."), "a", True),
        (("a", "...", "z"), "a\nb\nc\nz", True),
        (("a", "...", "z"), "a\nb\nc", False),
        (("a",), "a\nb", False),
        (("run ... started",), "run 20261123T084759Z-d05f started", True),
        (("took 0.3s",), "took 1.2s", True),
        (("took 0.3 hosts",), "took 1.2 hosts", False),
    ],
)
def test_shown_output_is_compared_but_for_what_is_never_the_same(shown, printed, same):
    assert matches(shown, printed) is same


def test_a_page_that_is_wrong_is_found(tmp_path, monkeypatch):
    text = "```console\n$ echo right\nright\n$ echo wrong\nright\n$ false\n$ sh -c 'exit 3'\n$ echo $?\n3\n```\n"
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr("tests.docs.transcripts.ROOT", tmp_path)
    (tmp_path / "inventories").mkdir()
    (tmp_path / "work").mkdir()
    wrong = [
        done.command.text for done in run_all(commands("page.md"), tmp_path / "work", Stage(up=False)) if done.wrong
    ]
    assert wrong == ["echo wrong", "false"]

"""The page of a run: its whole text as a golden file, hostile words as words, unfinished runs, bounded size."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from nixkube_deploy.model.event import Outcome, RunFinished, RunStarted, TaskSettled, TaskStarted, Verdict
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.ui.report.page import EVENTS, page
from nixkube_deploy.ui.report.timeline import Ending, timeline
from tests.unit.ui.stories import RUN, Story, a_plan, a_story, bad_run, golden, good_run, stage

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover='x' \x1b]0;title\x07\u202e&lt;"


class Tree(HTMLParser):
    """Every element with its attributes, and that each is closed in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def names(self) -> set[str]:
        return {name for name, _ in self.elements}


def told(tell, problem: str = "w4", alive: str = "") -> str:
    story = a_story(problem=problem)
    tell(story)
    return page(RUN, story.plan, story.records, alive)


@pytest.mark.parametrize(("name", "tell", "problem"), [("good", good_run, ""), ("bad", bad_run, "w4")])
def test_a_page_is_well_formed_and_as_it_was_looked_at(name, tell, problem):
    html = told(tell, problem)
    Tree(html)
    golden(f"report-{name}.html", re.sub(r"<style>.*?</style>", "<style></style>", html, flags=re.DOTALL))


def test_a_page_asks_nobody_and_runs_nothing():
    tree = Tree(told(bad_run))
    assert not tree.names() & {"script", "link", "img", "iframe", "object", "form", "base", "audio", "video", "embed"}
    named = {name for _, attributes in tree.elements for name in attributes}
    assert not named & {"src", "href", "style", "action", "srcset", "data"}
    assert not any(name.startswith("on") for name in named)
    policy = [a["content"] for n, a in tree.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "url(" not in told(bad_run)
    assert "@import" not in told(bad_run)


def test_whatever_a_host_says_is_text():
    failure = Failure(
        kind=FailureKind.ACTIVATION,
        message=HOSTILE,
        expected=HOSTILE,
        seen=HOSTILE,
        evidence=(HOSTILE,),
        did=HOSTILE,
        next=HOSTILE,
        command=HOSTILE,
        exit_code=1,
    )

    def tell(story: Story) -> None:
        stage(story)
        story.do("w1/activate", detail=HOSTILE)
        story.start("w2/drain")
        story.retry("w2/drain", failure)
        story.start("w2/drain", attempt=2)
        story.fail("w2/drain", failure)
        story.drain(HOSTILE)

    html = told(tell, alive=HOSTILE)
    tree = Tree(html)
    assert not tree.names() & {"script", "img"}
    assert not [a for _, a in tree.elements if any(name.startswith("on") for name in a)]
    assert html.count("alert(1)") > 10
    assert not set(html) & {"\x1b", "\x07", "\u202e"}


def test_a_page_can_be_read_without_eyes_and_mouse():
    tree = Tree(told(bad_run))
    assert ("html", {"lang": "en"}) in tree.elements
    headings = [int(name[1]) for name, _ in tree.elements if re.fullmatch("h[1-6]", name)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(later - before <= 1 for before, later in pairwise(headings))
    tables = sum(name == "table" for name, _ in tree.elements)
    assert tables == sum(name == "caption" for name, _ in tree.elements) > 2
    assert all("scope" in attributes for name, attributes in tree.elements if name == "th")
    for name, attributes in tree.elements:
        assert name != "svg" or attributes.get("aria-label") or attributes.get("aria-hidden")
    scrolled = [a for _, a in tree.elements if a.get("class") == "scrolls"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def cut_off(story: Story) -> None:
    stage(story)
    story.start("w1/activate")


def test_a_run_that_was_cut_off_says_so_and_how_to_go_on():
    html = told(cut_off)
    assert ">cut off<" in html
    assert f"deploy resume {RUN}" in html
    assert "(not ended)" in html


def test_a_run_that_goes_on_says_who_is_at_it():
    html = told(cut_off, alive="ann, process 7 on laptop")
    assert ">still running<" in html
    assert "ann, process 7 on laptop" in html


def test_a_run_with_nothing_to_do_has_a_page():
    html = page(RUN, a_plan(changed=""), ())
    Tree(html)
    assert "Nothing to do" in html


def test_what_ran_when_its_controller_died_ends_with_it():
    story = a_story()
    cut_off(story)
    story.clock.advance(100)
    story.begin(resumed=True)
    story.start("w1/activate")
    story.clock.advance(5)
    story.interrupt("w1/activate")
    times = timeline(story.plan, story.records)
    bars = [bar for bar in times.bars["w1"] if bar.step == "activate"]
    assert [bar.ending for bar in bars] == [Ending.CUT_OFF, Ending.INTERRUPTED]
    assert bars[0].end == bars[0].start
    assert bars[1].end - bars[1].start == 5


def test_a_thousand_hosts_fit_into_a_few_megabytes():
    story = Story(a_plan("cp1 | w1..w1000", changed=" ".join(f"w{n}=live" for n in range(1, 1001))))
    story.begin()
    for task in story.plan.graph:
        story.happen(TaskStarted(task=task, attempt=1))
        story.clock.advance(0.5)
        story.happen(TaskSettled(task=task, verdict=Verdict.SUCCEEDED))
    story.end(Outcome.CONVERGED)
    html = page(RUN, story.plan, story.records)
    assert len(story.records) > 5 * EVENTS
    assert html.count("<tr>") < 3 * EVENTS
    assert len(html.encode()) < 5_000_000, len(html)
    assert isinstance(story.records[0].event, RunStarted)
    assert isinstance(story.records[-1].event, RunFinished)

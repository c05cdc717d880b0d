"""A failure in full, in one fixed layout: what happened, expected and seen, the evidence, what was done, what to type.

It deliberately decides nothing: what a failure knows is what is shown, and what it does not know has no line.
"""

import textwrap
from collections.abc import Iterator

from rich.text import Text

from nixkube_deploy.model.failure import Failure
from nixkube_deploy.ui.sanitize import clean, clean_lines

WIDTH = 100
"""Columns when nobody says."""

_LABEL = 12
_MIN_BODY = 20


def render_failure(subject: str, failure: Failure, width: int = WIDTH, when: str = "") -> str:
    """The failure as plain text without a newline at the end; ``subject`` is a task, a host or a phase.

    ``when``, such as ``(after 9.0s)``, ends its first sentence.
    """
    return failure_text(subject, failure, width, when).plain


def failure_text(subject: str, failure: Failure, width: int = WIDTH, when: str = "") -> Text:
    """The same with colours for a terminal that has them."""
    text = Text()
    told = f"{clean(subject)} failed: {clean(failure.message)} {when}".rstrip()
    head = textwrap.wrap(told, max(width, _MIN_BODY)) or [""]
    text.append("\n".join(head), style="bold red")
    for label, line, style in _body(failure, width):
        text.append(f"\n  {label:<{_LABEL - 2}}", style="dim")
        text.append(line, style=style)
    return Text("\n").join(_trimmed(line) for line in text.split("\n"))


def _trimmed(line: Text) -> Text:
    line.rstrip()
    return line


def _body(failure: Failure, width: int) -> Iterator[tuple[str, str, str]]:
    """Label, line, style: the label only before the first line of its part."""
    for label, words in (("expected", failure.expected), ("seen", failure.seen)):
        yield from _labelled(label, _wrapped(words, width), "")
    if failure.command:
        code = "" if failure.exit_code is None else f" (exit code {failure.exit_code})"
        yield from _labelled("command", _wrapped(f"{failure.command}{code}", width), "")
    elif failure.exit_code is not None:
        yield "exit code", str(failure.exit_code), ""
    yield from _labelled("evidence", [f"| {line}" for line in clean_lines(failure.evidence)], "")
    yield from _labelled("did", _wrapped(failure.did, width), "")
    # What is to be typed is never wrapped, so that it can be copied.
    yield from _labelled("next", list(clean_lines(failure.next.splitlines())), "bold cyan")


def _labelled(label: str, lines: list[str], style: str) -> Iterator[tuple[str, str, str]]:
    for index, line in enumerate(lines):
        yield ("" if index else label), line, style


def _wrapped(words: str, width: int) -> list[str]:
    body = max(_MIN_BODY, width - _LABEL)
    return [
        part
        for line in clean_lines(words.splitlines())
        for part in (textwrap.wrap(line, body, break_on_hyphens=False, break_long_words=False) or [""])
    ]

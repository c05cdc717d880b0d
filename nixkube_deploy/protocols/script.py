"""Many questions to a host in one round trip: a script of marked commands, and its answer taken apart again.

Starting a program costs a host more than what these ask: many links, and many files, are asked of one program each. It
deliberately knows no question itself; the tables live with those who ask.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Host
from nixkube_deploy.ports.shell import Command, CommandResult, Shell

END: Final = "end"
"""The marker after the last answer: without it the answer was cut short."""

_TIMEOUT: Final = 30.0

_LINK: Final = re.compile(r"(?:test -e ([\w./+=-]+) && )?readlink -f ([\w./+=-]+)")
_FILE: Final = re.compile(r"cat ([\w./+=-]+)")
_THERE: Final = "there"
_LINKS: Final = "links"
_FILES: Final = "files"
_LINES: Final = 100_000
"""More than any file has that is asked for: ``head`` is used for the names it prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One command and the name its answer goes by. The command must need no rights and change nothing."""

    name: str
    command: str


@dataclass(frozen=True, slots=True)
class _Together:
    """What one program can answer of some questions; where it would answer one only, that one is asked by itself."""

    links: Mapping[str, str]
    """Paths by question, in order; ``readlink -m`` answers one line for each, whether it is there or not."""
    tested: frozenset[str]
    """Of these only where it is there: ``test`` is part of the shell."""
    files: Mapping[str, str]

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "_Together":
        links = {q.name: match for q in questions if (match := _LINK.fullmatch(q.command))}
        files = {q.name: match[1] for q in questions if (match := _FILE.fullmatch(q.command))}
        links = {name: match for name, match in links.items() if match[1] in {None, match[2]}}
        return cls(
            links={name: match[2] for name, match in links.items()} if len(links) > 1 else {},
            tested=frozenset(name for name, match in links.items() if match[1]) if len(links) > 1 else frozenset(),
            files=files if len(files) > 1 else {},
        )

    @property
    def questions(self) -> Iterator[tuple[str, str]]:
        """Name and command of what is asked in place of them."""
        if self.tested:
            tests = (f"test -e {path} && echo {at}" for at, path in enumerate(self.links.values()))
            tests = (test for test, name in zip(tests, self.links, strict=True) if name in self.tested)
            yield _THERE, "\n".join(tests)
        if self.links:
            yield _LINKS, f"readlink -m {' '.join(self.links.values())} 2>/dev/null"
        if self.files:
            yield _FILES, f"head -v -n {_LINES} {' '.join(dict.fromkeys(self.files.values()))} 2>/dev/null"

    def answers(self, found: Mapping[str, str]) -> dict[str, str]:
        """The answers to each of them, of those that were answered."""
        there, lines = found.get(_THERE, "").split(), found.get(_LINKS, "").splitlines()
        whole = len(lines) == len(self.links)
        one_each = lines if whole else [""] * len(self.links)  # Which line is whose cannot be told.
        links = {
            name: line if name not in self.tested or str(at) in there else ""
            for at, (name, line) in enumerate(zip(self.links, one_each, strict=True))
            if _LINKS in found
        }
        texts = _by_file(found.get(_FILES, ""), frozenset(self.files.values()))
        files = {name: texts.get(path, "") for name, path in self.files.items()} if _FILES in found else {}
        return links | files


def _by_file(output: str, paths: frozenset[str]) -> dict[str, str]:
    """What ``head -v`` printed, by file; a name counts only once, as a marker does."""
    found: dict[str, list[str]] = {}
    into: list[str] = []
    for line in output.splitlines():
        path = line.removeprefix("==> ").removesuffix(" <==")
        if path in paths and line == f"==> {path} <==" and path not in found:
            into = found.setdefault(path, [])
        else:
            into.append(line)
    return {path: "\n".join(lines).strip() for path, lines in found.items()}


def script(questions: Iterable[Question]) -> str:
    """POSIX sh that prints each answer after a line ``@name``.

    The empty ``echo`` before each marker ends a last line without a newline. What systemd says comes before what links
    say: work that ends between the two is seen by what it did.
    """
    questions = tuple(questions)
    together = _Together.of(questions)
    alone = (q for q in questions if q.name not in together.links and q.name not in together.files)
    asked = (*((q.name, f"{q.command} 2>/dev/null") for q in alone), *together.questions)
    lines = [line for name, command in asked for line in (f"echo; echo @{name}", command)]
    return "\n".join([*lines, f"echo; echo @{END}"])


def read(output: str, questions: Iterable[Question], marks: Iterable[str] = ()) -> dict[str, str]:
    """The answers of a script that asks ``questions``, and what stood after other ``marks``."""
    questions = tuple(questions)
    found = answers(output, (*marks, *(q.name for q in questions), _THERE, _LINKS, _FILES))
    return _Together.of(questions).answers(found) | {
        name: text for name, text in found.items() if name not in {_THERE, _LINKS, _FILES}
    }


def answers(output: str, names: Iterable[str]) -> dict[str, str]:
    """What stood after each marker, without blank edges. A name that was not answered is missing.

    What comes before the first marker (a banner) is ignored, and a marker counts only once: the first time.
    """
    expected = {*names, END}
    found: dict[str, list[str]] = {}
    into: list[str] | None = None
    for line in output.splitlines():
        name = line.rstrip()[1:] if line.startswith("@") else None
        if name in expected and name not in found:
            assert name is not None
            into = found.setdefault(name, [])
        elif into is not None:
            into.append(line.rstrip("\r"))
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


async def ask(shell: Shell, host: Host, questions: Iterable[Question]) -> Mapping[str, str]:
    """All answers in one round trip over the kept connection.

    Raises:
        TaskError: COMMAND, transient, when there is no whole answer, and what ``Shell`` raises.
    """
    questions = tuple(questions)
    return checked(host, questions, await shell.run(host, _command(questions)))


def _command(questions: tuple[Question, ...]) -> Command:
    return Command(argv=("sh", "-c", script(questions)), timeout=_TIMEOUT)


def checked(host: Host, questions: tuple[Question, ...], result: CommandResult) -> Mapping[str, str]:
    """The answers in a command's output.

    Raises:
        TaskError: COMMAND, transient, when there is no whole answer.
    """
    found = read(result.stdout, questions)
    if END not in found:
        raise TaskError(_not_an_answer(host, result, last=next(reversed(found), "nothing")))
    return found


def _not_an_answer(host: Host, result: CommandResult, last: str) -> Failure:
    return Failure(
        kind=FailureKind.COMMAND,
        message=f"{host.name} did not answer the questions put to it",
        expected="a POSIX shell that runs the script to its end",
        seen=f"exit code {result.exit_code}; the last thing it answered was: {last}",
        evidence=result.tail(),
        command="sh -c ...",
        exit_code=result.exit_code,
        next=f"log in to {host.address} as the tool does and run: sh -c 'echo ok'",
        transient=True,
    )

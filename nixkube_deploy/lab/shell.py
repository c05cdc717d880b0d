"""The lab's small POSIX shell: runs a parsed script against whatever starts programs and opens files.

It deliberately knows no program itself, except the few that only a shell can be (``exit``, ``:``).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from nixkube_deploy.lab.grammar import AndOr, Pipeline, Redirection, ShellSyntaxError, Simple, Variable, Word, parse

Writer = Callable[[str], None]
"""Receives output as it is written."""

SYNTAX_ERROR = 2


class Input(Protocol):
    """A program's standard input."""

    async def read(self) -> str:
        """Everything up to its end."""
        ...

    async def readline(self) -> str:
        """One line with its newline; empty at the end."""
        ...


@dataclass(slots=True)
class TextInput:
    """Input that is already there."""

    text: str = ""

    async def read(self) -> str:
        """The rest of it."""
        text, self.text = self.text, ""
        return text

    async def readline(self) -> str:
        """Up to and with the next newline."""
        line, newline, self.text = self.text.partition("\n")
        return line + newline


def discard(_text: str) -> None:
    """Where ``/dev/null`` leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The three standard streams."""

    stdin: Input = field(default_factory=TextInput)
    out: Writer = discard
    err: Writer = discard


class Exit(Exception):  # noqa: N818 (a request, not an error)
    """``exit N``."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


Run = Callable[[tuple[str, ...], Streams, Mapping[str, str]], Awaitable[int]]
"""Starts one program and waits for its exit code."""


class Files(Protocol):
    """What redirections need. Both raise OSError."""

    def open_write(self, path: str, *, append: bool) -> Writer:
        """A file to write to; created or truncated at once unless appending."""
        ...

    def open_read(self, path: str) -> str:
        """A file's text."""
        ...


class NoFiles:
    """No files but the devices: for scripts that need none."""

    def open_write(self, path: str, *, append: bool) -> Writer:  # noqa: ARG002 (the protocol's)
        """Nothing can be written."""
        raise PermissionError(path)

    def open_read(self, path: str) -> str:
        """Nothing can be read."""
        raise FileNotFoundError(path)


class Shell:
    """One shell process: its variables live as long as it does."""

    def __init__(self, run: Run, *, files: Files | None = None, name: str = "sh", env: Mapping[str, str]) -> None:
        self._run = run
        self._files = files or NoFiles()
        self._name = name
        self.env = dict(env)
        self._variables: dict[str, str] = {}
        self.status = 0

    async def run(self, text: str, streams: Streams) -> int:
        """Run a script; the exit code of its last command. ``exit`` raises Exit only out of ``interpret``."""
        try:
            return await self.interpret(text, streams)
        except Exit as request:
            return request.code

    async def interpret(self, text: str, streams: Streams) -> int:
        """As ``run``, but ``exit`` reaches the caller (an interactive shell, which then ends)."""
        try:
            script = parse(text)
        except ShellSyntaxError as error:
            streams.err(f"{self._name}: -c: line 1: {error}\n")
            self.status = SYNTAX_ERROR
            return self.status
        for entry in script:
            await self._and_or(entry, streams)
        return self.status

    async def _and_or(self, entry: AndOr, streams: Streams) -> None:
        self.status = await self._pipeline(entry.first, streams)
        for operator, pipeline in entry.rest:
            if (self.status == 0) == (operator == "&&"):
                self.status = await self._pipeline(pipeline, streams)

    async def _pipeline(self, pipeline: Pipeline, streams: Streams) -> int:
        """Members run one after the other, each with all of the former's output: enough for people's one-liners."""
        stdin = streams.stdin
        status = 0
        for index, command in enumerate(pipeline.commands):
            last = index == len(pipeline.commands) - 1
            passed: list[str] = []
            status = await self._simple(
                command, replace(streams, stdin=stdin, out=streams.out if last else passed.append)
            )
            stdin = TextInput("".join(passed))
        return int(status == 0) if pipeline.negated else status

    async def _simple(self, command: Simple, streams: Streams) -> int:
        try:
            streams = self._redirected(command.redirections, streams)
        except OSError as error:
            streams.err(f"{self._name}: line 1: {error.filename or error.args[0]}: {_reason(error)}\n")
            return 1
        words = [text for word in command.words if (text := self._expanded(word)) is not None]
        assigned = {name: self._expanded(value) or "" for name, value in command.assignments}
        if not words:
            self._assign(assigned)
            return 0
        if words[0] == "exit":
            raise Exit(int(words[1]) & 255 if len(words) > 1 and words[1].isdigit() else self.status)
        if words[0] == ":":
            return 0
        return await self._run(tuple(words), streams, {**self.env, **assigned})

    def _assign(self, assigned: dict[str, str]) -> None:
        """A variable reaches programs only if it came from the environment: nothing is exported here."""
        for name, value in assigned.items():
            (self.env if name in self.env else self._variables)[name] = value

    def _expanded(self, word: Word) -> str | None:
        text = "".join(self._value(part) if isinstance(part, Variable) else part for part in word.parts)
        return text if text or word.quoted else None

    def _value(self, variable: Variable) -> str:
        if variable.name == "?":
            return str(self.status)
        return self._variables.get(variable.name, self.env.get(variable.name, ""))

    def _redirected(self, redirections: tuple[Redirection, ...], streams: Streams) -> Streams:
        for redirection in redirections:
            target = self._expanded(redirection.target) or ""
            if redirection.operator == "<":
                text = "" if target == "/dev/null" else self._files.open_read(target)
                streams = replace(streams, stdin=TextInput(text))
                continue
            writer = self._writer(redirection, target, streams)
            if redirection.descriptor == 1:
                streams = replace(streams, out=writer)
            elif redirection.descriptor == 2:  # noqa: PLR2004 (standard error)
                streams = replace(streams, err=writer)
        return streams

    def _writer(self, redirection: Redirection, target: str, streams: Streams) -> Writer:
        if redirection.operator == ">&":
            if target not in ("1", "2"):
                raise OSError(target)
            return streams.out if target == "1" else streams.err
        if target == "/dev/null":
            return discard
        return self._files.open_write(target, append=redirection.operator == ">>")


def _reason(error: OSError) -> str:
    """The system's words for an error."""
    match error:
        case FileNotFoundError():
            return "No such file or directory"
        case PermissionError():
            return "Permission denied"
        case IsADirectoryError():
            return "Is a directory"
        case _:
            return error.strerror or "Bad file descriptor"

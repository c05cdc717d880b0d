"""The grammar of the lab's small shell: text to a tree.

It knows simple commands, ``;``, ``&&``, ``||``, ``!``, pipes, quotes, redirections and plain variables. Loops, ``if``,
substitutions and globs are left out on purpose: what is deployed to a host must not need them.
"""

import re
from dataclasses import dataclass

_OPERATORS = ("&&", "||", "|", ";", "\n")
_REDIRECT = re.compile(r"(\d?)(>>|>&|>|<)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\?")
_BRACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*|\?)\}")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_BLANK = " \t\r"
_SPECIAL = '"\\`$'


class ShellSyntaxError(Exception):
    """The text is not in the subset; ``near`` is what the shell stumbled over."""

    def __init__(self, near: str) -> None:
        super().__init__(f"syntax error near unexpected token `{near}'")
        self.near = near


@dataclass(frozen=True, slots=True)
class Variable:
    """``$NAME`` or ``$?``, replaced when the command runs."""

    name: str


Part = str | Variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word. A quoted word stays even when it is empty."""

    parts: tuple[Part, ...] = ()
    quoted: bool = False

    @property
    def literal(self) -> str:
        """The text before expansion, for assignments and messages."""
        return "".join(part if isinstance(part, str) else f"${part.name}" for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirection:
    """``2>/dev/null``, ``>FILE``, ``2>&1``."""

    descriptor: int
    operator: str
    target: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Simple:
    """One program with its words."""

    assignments: tuple[tuple[str, Word], ...] = ()
    words: tuple[Word, ...] = ()
    redirections: tuple[Redirection, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One or more programs, perhaps negated."""

    commands: tuple[Simple, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AndOr:
    """Pipelines joined by ``&&`` and ``||``, evaluated from the left."""

    first: Pipeline
    rest: tuple[tuple[str, Pipeline], ...] = ()


@dataclass(frozen=True, slots=True)
class _Operator:
    text: str


@dataclass(frozen=True, slots=True)
class _Redirect:
    descriptor: int
    operator: str


_Token = Word | _Operator | _Redirect


def parse(text: str) -> tuple[AndOr, ...]:
    """The script as lists, in order; raises ShellSyntaxError."""
    return _Parser(_Lexer(text).tokens()).script()


class _Lexer:
    """Characters to tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def tokens(self) -> list[_Token]:
        found: list[_Token] = []
        while True:
            self._skip_blank()
            if self.at >= len(self.text):
                return found
            found.append(self._token())

    def _skip_blank(self) -> None:
        text = self.text
        while self.at < len(text):
            if text[self.at] in _BLANK:
                self.at += 1
            elif text.startswith("\\\n", self.at):
                self.at += 2
            elif text[self.at] == "#":
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            else:
                return

    def _token(self) -> _Token:
        for operator in _OPERATORS:
            if self.text.startswith(operator, self.at):
                self.at += len(operator)
                return _Operator(operator)
        redirect = _REDIRECT.match(self.text, self.at)
        if redirect is not None:
            self.at = redirect.end()
            operator = redirect[2]
            default = 0 if operator == "<" else 1
            return _Redirect(int(redirect[1]) if redirect[1] else default, operator)
        if self.text[self.at] in "&()":
            raise ShellSyntaxError(self.text[self.at])
        return self._word()

    def _word(self) -> Word:
        parts: list[Part] = []
        quoted = False
        text = self.text
        while self.at < len(text) and text[self.at] not in " \t\r\n;&|<>()":
            char = text[self.at]
            if char == "'":
                quoted = True
                parts.append(self._single())
            elif char == '"':
                quoted = True
                parts.extend(self._double())
            elif char == "\\":
                quoted = True
                parts.append(self._escaped())
            elif char == "`":
                raise ShellSyntaxError("`")
            elif char == "$":
                parts.append(self._dollar())
            else:
                parts.append(char)
                self.at += 1
        return Word(parts=_joined(parts), quoted=quoted)

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise ShellSyntaxError("'")
        inside = self.text[self.at + 1 : end]
        self.at = end + 1
        return inside

    def _double(self) -> list[Part]:
        parts: list[Part] = []
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return parts
            if char == "\\" and self.at + 1 < len(self.text):
                following = self.text[self.at + 1]
                if following != "\n":
                    parts.append(following if following in _SPECIAL else char + following)
                self.at += 2
            elif char == "`":
                raise ShellSyntaxError("`")
            elif char == "$":
                parts.append(self._dollar())
            else:
                parts.append(char)
                self.at += 1
        raise ShellSyntaxError('"')

    def _escaped(self) -> str:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if following == "\n":
            return ""
        return following or "\\"

    def _dollar(self) -> Part:
        braced = _BRACED.match(self.text, self.at + 1)
        if braced is not None:
            self.at = braced.end()
            return Variable(braced[1])
        name = _NAME.match(self.text, self.at + 1)
        if name is not None:
            self.at = name.end()
            return Variable(name[0])
        if self.text[self.at + 1 : self.at + 2] in ("(", "{"):
            raise ShellSyntaxError("$" + self.text[self.at + 1])
        self.at += 1
        return "$"


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Neighbouring text as one part."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


class _Parser:
    """Tokens to lists."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens = tokens
        self.at = 0

    def script(self) -> tuple[AndOr, ...]:
        lists: list[AndOr] = []
        self._newlines()
        while self.at < len(self.tokens):
            lists.append(self._and_or())
            if self.at < len(self.tokens) and not (self._take(";") or self._take("\n")):
                raise ShellSyntaxError(self._here())
            self._newlines()
        return tuple(lists)

    def _and_or(self) -> AndOr:
        first = self._pipeline()
        rest: list[tuple[str, Pipeline]] = []
        while True:
            operator = "&&" if self._take("&&") else "||" if self._take("||") else None
            if operator is None:
                return AndOr(first=first, rest=tuple(rest))
            self._newlines()
            rest.append((operator, self._pipeline()))

    def _pipeline(self) -> Pipeline:
        negated = False
        while self._is_word("!"):
            self.at += 1
            negated = not negated
        commands = [self._simple()]
        while self._take("|"):
            self._newlines()
            commands.append(self._simple())
        return Pipeline(commands=tuple(commands), negated=negated)

    def _simple(self) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirections: list[Redirection] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if isinstance(token, _Operator):
                break
            self.at += 1
            if isinstance(token, _Redirect):
                redirections.append(self._redirection(token))
            elif not words and (assignment := _assignment(token)) is not None:
                assignments.append(assignment)
            else:
                words.append(token)
        if not (assignments or words or redirections):
            raise ShellSyntaxError(self._here())
        return Simple(assignments=tuple(assignments), words=tuple(words), redirections=tuple(redirections))

    def _redirection(self, redirect: _Redirect) -> Redirection:
        target = self.tokens[self.at] if self.at < len(self.tokens) else None
        if not isinstance(target, Word):
            raise ShellSyntaxError(self._here())
        self.at += 1
        return Redirection(descriptor=redirect.descriptor, operator=redirect.operator, target=target)

    def _newlines(self) -> None:
        while self._take("\n"):
            pass

    def _take(self, operator: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == _Operator(operator):
            self.at += 1
            return True
        return False

    def _is_word(self, text: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] == Word(parts=(text,))

    def _here(self) -> str:
        if self.at >= len(self.tokens):
            return "newline"
        match self.tokens[self.at]:
            case Word() as word:
                return word.literal
            case _Operator(text):
                return "newline" if text == "\n" else text
            case _Redirect(_, operator):
                return operator


def _assignment(word: Word) -> tuple[str, Word] | None:
    """``NAME=value`` before a command, when the name is unquoted."""
    first = word.parts[0] if word.parts else None
    if not isinstance(first, str):
        return None
    match = _ASSIGNMENT.match(first)
    if match is None:
        return None
    value = first[match.end() :]
    return match[1], Word(parts=((value,) if value else ()) + word.parts[1:], quoted=True)

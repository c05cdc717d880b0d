"""The tree of commands as click knows it, and the lines of its help that begin with one of our programs."""

import re
import shlex
from collections.abc import Iterator

import click

from nixkube_deploy.cli.root import COMMANDS, root
from nixkube_deploy.lab.cli import cli as lab

PROGRAMS: dict[str, click.Group] = {"deploy": root, "nixkube-deploy": root, "nixkube-lab": lab}
PASSED_ON = "deploy lab"
"""Its help and its arguments are those of ``nixkube-lab``."""


def every_command() -> dict[str, click.Command]:
    """Every command and group by what one types, but for ``deploy lab``."""
    found = {"deploy": root, **dict(_below("nixkube-lab", lab)), "nixkube-lab": lab}
    for name in COMMANDS:
        command = root.get_command(click.Context(root), name)
        assert command is not None
        found[f"deploy {name}"] = command
        if isinstance(command, click.Group):
            found |= dict(_below(f"deploy {name}", command))
    del found[PASSED_ON]
    return found


def _below(path: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _below(f"{path} {name}", command)


def examples(command: click.Command) -> list[str]:
    """Lines of the help that are meant to be typed: only in paragraphs that keep their lines."""
    text = "\n\n".join(filter(None, (command.help, command.epilog if isinstance(command.epilog, str) else "")))
    kept = [paragraph for paragraph in text.split("\n\n") if paragraph.lstrip().startswith("\b")]
    lines = [line.strip() for paragraph in kept for line in paragraph.splitlines()]
    return [line for line in lines if re.match(r'(eval "\$\()?(nixkube-)?(deploy|lab) ', line)]


def typed(example: str) -> list[list[str]]:
    """The argument lists of one line, without its remark: a line may hold several commands."""
    line = re.split(r"\s{2,}|\s#\s", example)[0]
    if inner := re.fullmatch(r'eval "\$\((.*)\)"', line):
        line = inner[1]
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    lists: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if word in {"&&", "||", "|", ";"}:
            lists.append([])
        elif set(word) <= {"<", ">", "&"}:
            redirected = True
        elif redirected:
            redirected = False
        else:
            lists[-1].append(word)
    return [words for words in lists if words and words[0] in PROGRAMS]


def accept(words: list[str]) -> click.Context:
    """What the parser makes of it; nothing is run.

    Raises:
        click.UsageError: it does not understand.
    """
    program, *rest = words
    command: click.Command = PROGRAMS[program]
    if program != "nixkube-lab" and rest[:1] == ["lab"]:
        command, rest = lab, rest[1:]
    while isinstance(command, click.Group) and rest:
        inner = command.get_command(click.Context(command), rest[0])
        if inner is None:
            raise click.UsageError(f"no such command: {rest[0]}")
        command, (program, *rest) = inner, rest
    # Below a parent as in earnest: a command remembers the names of its help option for good.
    parent = click.Context(root, help_option_names=["-h", "--help"])
    return command.make_context(program, list(rest), parent=parent)

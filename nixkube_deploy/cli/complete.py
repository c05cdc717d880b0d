"""What may come next on a command line: the answer to a shell that completes, with hosts, selectors and runs.

It contacts no host and runs no program. Whatever goes wrong it says nothing: nobody who presses TAB wants to read why.
"""

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, ShellComplete

if TYPE_CHECKING:
    from nixkube_deploy.inventory.outline import Outline

VARIABLE = "_NIXKUBE_DEPLOY_COMPLETE"
"""Set by the scripts of ``cli/completion.py`` when they ask."""
LINE, WORD = "NIXKUBE_COMPLETE_LINE", "NIXKUBE_COMPLETE_WORD"
"""The command line up to the cursor; and what of it the shell will replace, where it is not the whole last word."""

USUAL = Path("inventory.yaml")
SUFFIXES = (".yaml", ".yml", ".json")
_HERE = "\0"


def answer() -> None:
    """Print what may come next: one ``type TAB value TAB help`` a line. Never fails."""
    try:
        found = suggestions(os.environ.get(LINE, ""), os.environ.get(WORD))
        text = "".join(f"{item.type}\t{item.value}\t{item.help or ''}\n" for item in found)
    except (Exception, SystemExit):  # noqa: BLE001 (said above)
        return
    click.echo(text, nl=False)


def suggestions(line: str, word: str | None = None) -> list[CompletionItem[str]]:
    """What may follow ``line``; values take the place of ``word``, or of its last word."""
    from nixkube_deploy.cli.root import root

    *before, last = _words(line)
    found = ShellComplete(root, {"obj": before}, "deploy", VARIABLE).get_completions(before[1:], last)
    # click completes `--on=w` as `w`.
    lead = last[: last.index("=") + 1] if last.startswith("-") and "=" in last else ""
    stays = 0 if word is None else _stays(last, word)
    return [CompletionItem(f"{lead}{item.value}"[stays:], type=item.type, help=item.help) for item in found]


def _stays(last: str, word: str) -> int:
    """How much of the last word the shell leaves as it is: bash replaces only what follows a ``=`` or a ``:``."""
    replaced = word.lstrip("'\"").removeprefix("=")
    return len(last) - len(replaced) if last.endswith(replaced) else 0


def _words(line: str) -> list[str]:
    """The words as a shell would see them, the last one as far as it is typed; an open quote is fine."""
    lexer = shlex.shlex(line + _HERE, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:
        words.append(lexer.token)
    return [word.replace(_HERE, "") for word in words] or [""]


def complete_selector(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Hosts, @groups and labels, behind whatever of the selector stands there already."""
    named = _outline(ctx)
    if named is None:
        return []
    typed = re.split("[,&!]", incomplete)[-1]
    done = incomplete.removesuffix(typed)
    words = {**named.hosts, **{f"@{name}": "group" for name in named.groups}, **dict.fromkeys(named.labels, "label")}
    return [CompletionItem(done + name, help=tells) for name, tells in words.items() if name.startswith(typed)]


def complete_host(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """One host of the inventory."""
    named = _outline(ctx)
    hosts = {} if named is None else named.hosts
    return [CompletionItem(name, help=groups) for name, groups in hosts.items() if name.startswith(incomplete)]


def complete_run(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Ids of runs, newest first."""
    from nixkube_deploy.app.state import state_directory
    from nixkube_deploy.journal.history import run_ids

    return [CompletionItem(run) for run in run_ids(state_directory()) if run.startswith(incomplete)]


def _outline(ctx: click.Context) -> "Outline | None":
    """Of the inventory on the line, or of the usual one where it is yet to be typed.

    click has parsed no argument where an option waits for its value, so the words themselves are looked through.
    """
    from nixkube_deploy.inventory.outline import outline

    typed = (Path(word).expanduser() for word in ctx.obj or () if word.endswith(SUFFIXES))
    return outline(next((path for path in typed if path.is_file()), USUAL))

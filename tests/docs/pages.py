"""What is generated in ``docs/``: whole pages, and parts of pages between two marks. Run it to write them anew."""

import re
from collections.abc import Callable
from pathlib import Path

import click

from nixkube_deploy.cli.root import COMMANDS, root
from nixkube_deploy.inventory.reference import reference_markdown
from nixkube_deploy.lab.cli import cli as lab_cli
from nixkube_deploy.lab.faults import KINDS
from nixkube_deploy.model.event import Outcome
from nixkube_deploy.ui.eventdocs import events_markdown
from nixkube_deploy.ui.plandocs import plan_markdown

DOCS = Path(__file__).resolve().parents[2] / "docs"
WIDTH = 100


def commands_markdown() -> str:
    """The help of every command, as it is printed."""
    parts = [
        "# Commands",
        "",
        "This page is written from the program's own help; a test keeps both equal.",
        "What the exit codes mean is in [exit-codes.md](exit-codes.md), the event stream in [events.md](events.md).",
        "",
        *_fenced("deploy", root),
    ]
    context = click.Context(root, info_name="deploy")
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        if name != "lab":
            parts += _fenced(f"deploy {name}", command)
    parts += ["`deploy lab` is `nixkube-lab`.", "", *_fenced("nixkube-lab", lab_cli)]
    for name, command in _leaves("nixkube-lab", lab_cli):
        parts += _fenced(name, command)
    return "\n".join(parts)


def _leaves(path: str, group: click.Group) -> list[tuple[str, click.Command]]:
    found = []
    for name, command in group.commands.items():
        here = f"{path} {name}"
        found += _leaves(here, command) if isinstance(command, click.Group) else [(here, command)]
    return found


def _fenced(path: str, command: click.Command) -> list[str]:
    *before, last = path.split()
    parent = click.Context(click.Group(), info_name=" ".join(before)) if before else None
    context = click.Context(command, info_name=last, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return [f"## {path}", "", "```text", text, "```", ""]


def faults_markdown() -> str:
    """Every kind of fault."""
    rows = ["| fault | what happens |", "|---|---|"]
    for kind in KINDS.values():
        argument = f"={kind.argument}" if kind.argument else ""
        spec = f"{'fleet' if kind.fleet else 'HOST'}:{kind.name}{argument}".replace("|", "\\|")
        notes = ["going back works"] if kind.spares else []
        notes += [f"default `{kind.default}`"] if kind.default else []
        rows.append(f"| `{spec}` | {kind.summary}" + (f" ({'; '.join(notes)}) |" if notes else " |"))
    return "\n".join([*rows, ""])


def outcomes_markdown() -> str:
    """How a run can end, as events and JSON name it."""
    rows = ["| outcome | exit code |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{outcome.value}` | {outcome.exit_code} |" for outcome in Outcome), ""])


WHOLE: dict[str, Callable[[], str]] = {
    "events.md": events_markdown,
    "plan.md": plan_markdown,
    "commands.md": commands_markdown,
}
PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "inventory.md": ("keys", reference_markdown),
    "lab.md": ("faults", faults_markdown),
    "exit-codes.md": ("outcomes", outcomes_markdown),
}


def page(name: str) -> str:
    """What the page should be; what people wrote around a generated part is kept."""
    if name in WHOLE:
        return WHOLE[name]()
    part, write = PARTS[name]
    begin, end = f"<!-- generated: {part} -->\n", f"<!-- end of {part} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text = (DOCS / name).read_text()
    assert pattern.search(text), f"docs/{name} has no place for the generated {part}"
    return pattern.sub(lambda _: f"{begin}\n{write()}\n{end}", text)


def main() -> None:
    for name in (*WHOLE, *PARTS):
        (DOCS / name).write_text(page(name))


if __name__ == "__main__":
    main()

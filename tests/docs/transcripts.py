"""The commands a page shows, run as a reader would type them, and what they print held against what is shown.

In ``console`` blocks a line that begins with ``$`` is a command, the lines after it are its output; in ``sh`` blocks
every line is a command; a ``yaml`` block that begins with ``# NAME.yaml`` is a file that the reader saves. Shown output
is compared word for word, but for what is never the same twice; ``...`` stands for anything, on a line of its own for
any number of lines. A command ends with 0, unless ``$ echo $?`` follows it. What is replaced is in ``stages.py``.
"""

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.docs.stages import ENDS_OTHERWISE, FLEET, HOME, VOLATILE, Stage

ROOT = Path(__file__).resolve().parents[2]
MARK = "\x1e"
ANYTHING = "\0"
PERSON = Path(__file__).with_name("person.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of a page."""

    page: str
    line: int
    text: str
    shown: tuple[str, ...] = ()
    answered: bool = False
    """Its exit code is shown by the next command."""

    @property
    def may_end(self) -> int | None:
        return None if self.answered else ENDS_OTHERWISE.get(self.text, 0)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: $ {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a command; code is None where the page never came to it."""

    command: Command
    code: int | None
    output: str

    @property
    def wrong(self) -> str:
        """What a reader would not have seen, or nothing."""
        if self.code is None or (self.command.may_end is not None and self.code != self.command.may_end):
            return f"{self.command}\nended with {self.code}\n{self.output}"
        if self.command.shown and not matches(self.command.shown, self.output):
            shown = "\n".join(self.command.shown)
            return f"{self.command}\nthe page shows\n{shown}\nit printed\n{self.output}"
        return ""


def commands(page: str) -> list[Command]:
    """Every command of ``console`` and ``sh`` blocks, in order."""
    found: list[Command] = []
    kind = ""
    lines = iter(enumerate((ROOT / page).read_text().splitlines(), 1))
    for number, line in lines:
        fence = re.match(r" *```(\w*)", line)
        if fence:
            kind = "" if kind else fence[1] or "text"
        elif kind == "yaml" and (saved := re.fullmatch(r"# ([\w.-]+\.yaml)", line)):
            content = "\n".join(text for _, text in itertools.takewhile(lambda each: each[1] != "```", lines))
            found.append(Command(page=page, line=number, text=f"cat > {saved[1]} <<'END'\n{content}\nEND"))
            kind = ""
        elif (kind == "console" and line.startswith("$ ")) or (kind == "sh" and line and not line.startswith("#")):
            text = line.removeprefix("$ ")
            while text.endswith("\\"):
                text = f"{text}\n{next(lines)[1]}"
            if found and kind == "console" and text == "echo $?":
                found[-1] = _with(found[-1], answered=True)
            found.append(Command(page=page, line=number, text=_uncommented(text)))
        elif kind == "console" and found:
            found[-1] = _with(found[-1], shown=(*found[-1].shown, line))
    return found


def _with(command: Command, *, shown: tuple[str, ...] | None = None, answered: bool = False) -> Command:
    shown = command.shown if shown is None else shown
    return Command(page=command.page, line=command.line, text=command.text, shown=shown, answered=answered)


def _uncommented(text: str) -> str:
    return re.sub(r"\s{2,}# .*$", "", text).strip()


def pages() -> list[str]:
    """Every page with a command."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [name for name in (str(path.relative_to(ROOT)) for path in every) if commands(name)]


def prepared(folder: Path, stage: Stage) -> dict[str, str]:
    """Programs, an inventory, and a lab that is up unless the page brings up its own; the environment of the page."""
    for name in ("bin", "home", "inventories"):
        (folder / name).mkdir()
    (folder / ".venv").mkdir()
    (folder / ".venv/bin").symlink_to(folder / "bin")
    for program, module in (("deploy", ""), ("nixkube-deploy", ""), ("nixkube-lab", ".lab")):
        words = shlex.join([sys.executable, str(PERSON), sys.executable, "-m", f"nixkube_deploy{module}"])
        (folder / "bin" / program).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (folder / "bin" / program).chmod(0o755)
    for each in (ROOT / "inventories").iterdir():
        (folder / "inventories" / each.name).symlink_to(each)
    (folder / "flakes").symlink_to(ROOT / "flakes")
    environment = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]))),
        "NIXKUBE_DEPLOY_STATE": str(folder / "state"),
        "NO_COLOR": "1",
        "COLUMNS": "120",
        "LC_ALL": "C.UTF-8",
        **stage.environment,
    }
    for name, text in {"inventory.yaml": FLEET, **stage.files}.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    return environment


def script(numbered: list[tuple[int, Command]], stage: Stage) -> str:
    """One shell for the whole page: what one command exports or changes into, the next one finds."""
    lines = ["exec 2>&1", "__code=0"]
    if stage.up:
        bring_up = shlex.join(["nixkube-lab", "up", "inventory.yaml", *stage.up_options])
        lines += [f"{bring_up} || exit 99", "mv inventory.yaml real.yaml", "ln -s .nixkube-lab/inventory.yaml ."]
        lines += ["ln -s .nixkube-lab/flake flake", 'eval "$(nixkube-lab env)"', *stage.before, ""]
    for number, command in numbered:
        lines += [f"printf '\\n{MARK}%d\\n' {number}", '(exit "$__code")', command.text]
        lines += ["__code=$?", f"printf '\\n{MARK}=%d\\n' \"$__code\""]
    return "\n".join([*lines, ""])


def run_all(chosen: list[Command], folder: Path, stage: Stage) -> list[Done]:
    """Run commands one after another in one shell, in a folder of their own and against a lab of their own."""
    environment = prepared(folder, stage)
    numbered = list(enumerate(chosen))
    try:
        with subprocess.Popen(
            ["bash", "--norc", "-c", script(numbered, stage)],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        ) as shell:  # fmt: skip
            try:
                told, _ = shell.communicate(timeout=stage.patience)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                told, _ = shell.communicate()
    finally:
        down = [sys.executable, "-m", "nixkube_deploy.lab", "down"]
        subprocess.run(down, cwd=folder, env=environment, capture_output=True, check=False)
    return [_done(number, command, told, folder) for number, command in numbered]


def _done(number: int, command: Command, told: str, folder: Path) -> Done:
    begin, _, rest = told.partition(f"\n{MARK}{number}\n")
    output, ended, after = rest.partition(f"\n{MARK}=")
    if not ended:
        return Done(command=command, code=None, output=_as_shown(rest or begin, folder))
    return Done(command=command, code=int(after.splitlines()[0]), output=_as_shown(output, folder))


def _as_shown(output: str, folder: Path) -> str:
    """With the reader's folder in place of ours, and the answer that the terminal would have shown."""
    there = output.replace(str(folder), HOME).replace("Do this? [y/N]: ", "Do this? [y/N]: y\n")
    return "\n".join(line.rstrip() for line in there.strip("\n").splitlines())


def steady(line: str) -> str:
    """Without what is never the same twice."""
    for pattern, word in VOLATILE:
        line = pattern.sub(word, line)
    return " ".join(line.split())


def matches(shown: tuple[str, ...], output: str) -> bool:
    """Whether the output is what is shown."""
    parts = []
    for line in shown:
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*\n)*")
        else:
            words = steady(line.replace("...", ANYTHING)).split(ANYTHING)
            parts.append(r"[^\n]*".join(re.escape(word.strip()) for word in words) + r"\n")
    text = "".join(f"{steady(line)}\n" for line in output.splitlines())
    return re.fullmatch("".join(parts), text) is not None

"""``nixkube-lab``: a simulated fleet on loopback, brought up, looked at, broken and taken down.

Everything happens in the lab's own process; a command only asks it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from nixkube_deploy.lab import daemon
from nixkube_deploy.lab.control import NotRunning, ask
from nixkube_deploy.lab.faults import KINDS
from nixkube_deploy.lab.lifecycle import LabError, is_running, lasting, start, stop
from nixkube_deploy.lab.twin import Paths
from nixkube_deploy.lab.world import Wishes

DEFAULT_FOLDER = ".nixkube-lab"
F = TypeVar("F", bound=Callable[..., Any])

_FOLDER = click.option(
    "--dir", "folder", default=DEFAULT_FOLDER, envvar="NIXKUBE_LAB_DIR", show_default=True, metavar="DIR",
    help="Where the lab lives.", type=click.Path(file_okay=False, path_type=Path),
)  # fmt: skip
_FAULTS = click.option("--fault", "faults", multiple=True, metavar="SPEC", help="HOST:KIND[=ARG][*TIMES]; repeatable.")
_BARE = click.option("--bare", multiple=True, metavar="HOST", help="A machine without NixOS, to be installed.")
_REAL_TIME = click.option("--real-time", is_flag=True, help="Keep the inventory's waits as they are.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A simulated fleet on loopback: real SSH, a Kubernetes API, stand-ins for nix and nixos-anywhere.

    \b
    nixkube-lab up inventories/lab.yaml             twelve hosts in a second
    ssh -F .nixkube-lab/ssh_config cp1              log in to one
    nixkube-lab run -- deploy apply .nixkube-lab/inventory.yaml
    nixkube-lab fault add w2:switch=4               break something
    nixkube-lab down
    """


@cli.command()
@click.argument("inventory", required=False)
@_FOLDER
@_FAULTS
@_BARE
@_REAL_TIME
@click.option("--foreground", is_flag=True, help="Stay in this terminal.")
def up(inventory: str | None, folder: Path, *, foreground: bool, **wishes: Any) -> None:
    """Bring up the hosts of INVENTORY; without it, those that were there before.

    \b
    nixkube-lab up inventory.yaml
    nixkube-lab up inventory.yaml --fault w2:reboot-never-returns --bare w3
    """
    folder = folder.absolute()
    source = _source(inventory, folder)
    wanted = Wishes(real_time=wishes["real_time"], bare=wishes["bare"], faults=wishes["faults"])
    if foreground:
        if is_running(folder):
            raise LabError(f"a lab is already up in {folder}", f"nixkube-lab down --dir {folder}")
        daemon.write_settings(folder, source, wanted)
        sys.exit(daemon.main([os.fspath(folder)]))
    start(folder, source, wanted)
    hosts = _one(folder, {"op": "status"})["hosts"]
    paths = Paths(folder=folder)
    click.echo(f"{len(hosts)} hosts are up in {folder}", err=True)
    click.echo(f"  inventory   {paths.inventory}\n  log in      ssh -F {paths.ssh_config} {hosts[0]['host']}", err=True)
    click.echo(f"  deploy      nixkube-lab run --dir {folder} -- deploy apply {paths.inventory}", err=True)


def _source(inventory: str | None, folder: Path) -> str:
    if inventory is None:
        if not (folder / daemon.SETTINGS).exists():
            raise LabError(f"there was no lab in {folder} yet", "nixkube-lab up INVENTORY")
        return daemon.read_settings(folder)[0]
    return inventory if inventory.startswith("command:") else str(Path(inventory).absolute())


@cli.command()
@_FOLDER
def down(folder: Path) -> None:
    """Take the lab down; its state stays for the next up.

    \b
    nixkube-lab down
    nixkube-lab down --dir /tmp/another
    """
    stop(folder.absolute())
    click.echo("the lab is down; its state is kept", err=True)


@cli.command()
@_FOLDER
@click.option(
    "--json", "as_json", is_flag=True, help="Everything, for programs: counters and commands of each host too."
)
def status(folder: Path, *, as_json: bool) -> None:
    """What every host is and runs.

    \b
    nixkube-lab status
    nixkube-lab status --json | jq '.hosts[].current'
    """
    answer = _one(folder.absolute(), {"op": "status"})
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"{'HOST':<14} {'PORT':>5}  {'POWER':<5} {'OS':<9} {'GEN':>3}  {'KERNEL':<12} {'NODE':<22} SYSTEM")
    for host in answer["hosts"]:
        node = host["node"]
        state = (
            "-"
            if node is None
            else ("Ready" if node["ready"] else "NotReady") + (",cordoned" if node["unschedulable"] else "")
        )
        power = "on" if host["powered"] else "off"
        system = (host["current"] or "-").rpartition("/")[2][:12]
        row = (
            f"{host['host']:<14} {host['port']:>5}  {power:<5} {host['personality']:<9} {host['generation'] or '-':>3}"
        )
        click.echo(f"{row}  {host['kernel']:<12} {state:<22} {system}")
    for fault in answer["faults"]:
        click.echo(f"fault  {fault}")


@cli.command(context_settings={"ignore_unknown_options": True})
@_FOLDER
@click.option("--inventory", metavar="INVENTORY", help="Bring up a lab for the length of the command.")
@_FAULTS
@_BARE
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(folder: Path, inventory: str | None, command: tuple[str, ...], **wishes: Any) -> None:
    """Run COMMAND with the lab's programs on PATH; its exit code is returned.

    \b
    nixkube-lab run -- deploy plan .nixkube-lab/inventory.yaml
    nixkube-lab run --inventory inventory.yaml -- kubectl get nodes
    """
    folder = folder.absolute()
    if inventory is None:
        if not is_running(folder):
            raise LabError(f"no lab is up in {folder}", "nixkube-lab up INVENTORY")
        sys.exit(_run(folder, list(command)))
    with tempfile.TemporaryDirectory(prefix="nixkube-lab-") as name:
        temporary = Path(name)
        wanted = Wishes(bare=wishes["bare"], faults=wishes["faults"])
        with lasting(temporary, _source(inventory, folder), wanted):
            code = _run(temporary, list(command))
    sys.exit(code)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("inventory")
@_FAULTS
@_BARE
@_REAL_TIME
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def rehearse(inventory: str, *, keep: bool, arguments: tuple[str, ...], **wishes: Any) -> None:
    """Run ``deploy apply`` on a twin of INVENTORY; ARGUMENTS after -- go to apply.

    \b
    nixkube-lab rehearse inventory.yaml
    nixkube-lab rehearse inventory.yaml --fault w2:switch=4 -- --on w2,w3
    """
    folder = Path(tempfile.mkdtemp(prefix="nixkube-lab-"))
    wanted = Wishes(real_time=wishes["real_time"], bare=wishes["bare"], faults=wishes["faults"])
    apply = ["deploy", "apply", os.fspath(Paths(folder=folder).inventory), "--yes"]
    apply += [*(["--bootstrap"] if wanted.bare else []), *arguments]
    if keep:
        start(folder, _source(inventory, folder), wanted)
        code = _run(folder, apply)
        click.echo(f"the lab stays up in {folder}; nixkube-lab down --dir {folder}", err=True)
        sys.exit(code)
    try:
        with lasting(folder, _source(inventory, folder), wanted):
            code = _run(folder, apply)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


def _pass_on(number: int, signals: list[int], running: list[subprocess.Popen[bytes]]) -> None:
    signals.append(number)
    for process in running:
        process.terminate()


def _run(folder: Path, command: list[str]) -> int:
    """Signals belong to the command; we wait for what it makes of them."""
    if command[0] in ("deploy", "nixkube-deploy"):
        command = [sys.executable, "-m", "nixkube_deploy", *command[1:]]
    paths = Paths(folder=folder)
    env = {**os.environ, **paths.environment(), "PATH": f"{paths.bin}{os.pathsep}{os.environ.get('PATH', '')}"}
    # Before it starts: a signal that came in between would end us, and leave the lab behind.
    running: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: _pass_on(number, signals, running))
    try:
        process = subprocess.Popen(command, env=env)
    except OSError as error:
        raise LabError(f"{command[0]}: {error.strerror}", code=127) from None
    running.append(process)
    if signals:
        process.terminate()
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code


@cli.group()
def fault() -> None:
    """What goes wrong: list, add, clear.

    \b
    nixkube-lab fault list
    nixkube-lab fault add w2:switch=4
    """


@fault.command("list")
def fault_list() -> None:
    """Every kind of fault.

    \b
    nixkube-lab fault list
    """
    for kind in KINDS.values():
        argument = f"={kind.argument}" if kind.argument else ""
        where = "fleet" if kind.fleet else "HOST"
        notes = ["spares the old system"] if kind.spares else []
        notes += [f"default {kind.default}"] if kind.default else []
        click.echo(f"{where}:{kind.name}{argument}\n    {kind.summary}" + (f" ({'; '.join(notes)})" if notes else ""))


@fault.command("add")
@_FOLDER
@click.argument("specs", nargs=-1, required=True)
def fault_add(folder: Path, specs: tuple[str, ...]) -> None:
    """Set faults in a running lab.

    \b
    nixkube-lab fault add w2:reboot-old-kernel
    nixkube-lab fault add 'w1:switch=4*1' fleet:api-down=5     w1's only once
    """
    for spec in _one(folder.absolute(), {"op": "fault-add", "specs": list(specs)})["added"]:
        click.echo(f"set {spec}", err=True)


@fault.command("clear")
@_FOLDER
@click.argument("subject", metavar="[HOST[:KIND]]", required=False)
@click.option("--kind", help="Only this kind.")
def fault_clear(folder: Path, subject: str | None, kind: str | None) -> None:
    """Remove faults of HOST, one as it was set, or all; lost machines are powered on again.

    \b
    nixkube-lab fault clear
    nixkube-lab fault clear w2:switch
    """
    host, _, named = (subject or "").partition(":")
    kind = re.split(r"[=*]", named)[0] or kind
    cleared = _one(folder.absolute(), {"op": "fault-clear", "host": host or None, "kind": kind})["cleared"]
    for spec in cleared:
        click.echo(f"cleared {spec}", err=True)
    if subject and not cleared:
        raise LabError(f"{subject} has no fault", "nixkube-lab status says which are set")


@cli.command()
@_FOLDER
def env(folder: Path) -> None:
    """Shell lines that lead this terminal into the lab.

    \b
    eval "$(nixkube-lab env)"
    nixkube-lab env --dir /tmp/another > env.sh
    """
    folder = folder.absolute()
    if not is_running(folder):
        raise LabError(f"no lab is up in {folder}", "nixkube-lab up INVENTORY")
    click.echo(Paths(folder=folder).env.read_text(), nl=False)


def _one(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The one answer to a request; raises LabError."""
    try:
        answer = next(iter(ask(folder, request)), {"error": "the lab ended while it was asked"})
    except NotRunning:
        raise LabError(f"no lab is up in {folder}", "nixkube-lab up INVENTORY") from None
    if "error" in answer:
        raise LabError(str(answer["error"]), str(answer.get("hint", "")))
    return answer


def main() -> NoReturn:
    """Entry point of ``nixkube-lab``."""
    try:
        cli(prog_name="nixkube-lab", standalone_mode=True)
    except LabError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.code)
    sys.exit(0)

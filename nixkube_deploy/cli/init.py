"""``deploy init``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nixkube_deploy.app.scaffold import Machine, Written

_KINDS = "intel, amd, arm, raspberry-pi-4, raspberry-pi-5"


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="The cluster's name; otherwise the folder's.")
@click.option(
    "--distribution", type=click.Choice(["k3s", "kubernetes"]), default="k3s", show_default=True,
    help="k3s, or the components of NixOS' services.kubernetes.",
)  # fmt: skip
@click.option(
    "--control-plane", "planes", metavar="NAME=ADDRESS[,HARDWARE]", multiple=True,
    help="A control-plane host; repeatable, the first one begins the cluster.",
)  # fmt: skip
@click.option("--worker", "workers", metavar="NAME=ADDRESS[,HARDWARE]", multiple=True, help="A worker; repeatable.")
@click.option("--user", default="deploy", show_default=True, help="Who logs in to deploy, and becomes root by sudo.")
@click.option("--ssh-key", "key", metavar="KEY|FILE", help="The public key of that user; otherwise yours, from ~/.ssh.")
@click.option("--force", is_flag=True, help="Also in a folder that is not empty; no file that is there is changed.")
def command(folder: Path, name: str | None, *, force: bool, **options: Any) -> None:
    """Write an inventory and a flake for a new cluster into DIR.

    HARDWARE is one of intel (the default), amd, arm, raspberry-pi-4 and raspberry-pi-5. Without hosts, three examples
    are written, with addresses that belong to nobody. Nothing is contacted and nothing is run.

    \b
    deploy init homelab
    deploy init homelab --control-plane cp1=10.0.0.11 --worker pi1=10.0.0.21,raspberry-pi-4
    deploy init prod --distribution kubernetes --control-plane cp1=10.0.0.11 --worker w1=10.0.0.21
    """
    from nixkube_deploy.app.scaffold import Wanted, public_keys, scaffold
    from nixkube_deploy.app.scaffoldtext import EXAMPLES

    machines = (
        *(_machine("--control-plane", each, is_control_plane=True) for each in options["planes"]),
        *(_machine("--worker", each, is_control_plane=False) for each in options["workers"]),
    )
    wanted = Wanted(
        name=name or folder.absolute().resolve().name or "cluster",
        distribution=options["distribution"],
        machines=machines or EXAMPLES,
        user=options["user"],
        keys=public_keys(options["key"], Path.home()),
        placeholders=not machines,
    )
    _tell(scaffold(folder, wanted, force=force))


def _machine(option: str, text: str, *, is_control_plane: bool) -> "Machine":
    """``NAME=ADDRESS[,HARDWARE]``.

    Raises:
        UsageError: it is not written that way.
    """
    from nixkube_deploy.app.scaffold import Machine
    from nixkube_deploy.app.scaffoldtext import HARDWARE
    from nixkube_deploy.model.error import UsageError

    name, equals, rest = text.partition("=")
    address, comma, hardware = rest.partition(",")
    if not (name and equals and address):
        raise UsageError(f"{option} {text}: write NAME=ADDRESS", hint=f"{option} cp1=10.0.0.11")
    if comma and hardware not in HARDWARE:
        raise UsageError(f"{option} {text}: there is no hardware {hardware!r}", hint=f"one of {_KINDS}")
    return Machine(name=name, address=address, is_control_plane=is_control_plane, hardware=hardware or "intel")


def _tell(written: "Written") -> None:
    """What is there now, and what to type next."""
    folder = written.folder
    click.echo(f"{folder}: {len(written.new)} files written")
    for name in written.new:
        click.echo(f"  {name}")
    if written.same:
        click.echo(f"{len(written.same)} were there already and say the same")
    for name in written.kept:
        click.echo(f"kept as it was, yours: {name}")
    for note in written.notes:
        click.echo(f"note: {note}")
    click.echo("\nNext:")
    if folder.resolve() != Path.cwd():
        click.echo(f"  cd {folder}")
    if not any((place / ".git").exists() for place in (folder.absolute(), *folder.absolute().parents)):
        click.echo("  git init                # secrets and what git does not track stay out of the Nix store")
    click.echo("  git add .               # a flake in git sees tracked files only: again for every new file")
    click.echo("  nix flake lock          # once; commit flake.lock with the rest")
    click.echo("  deploy check            # what is in order, and what could not be looked at")
    click.echo("  deploy rehearse         # the first change, on a simulated twin of this fleet")

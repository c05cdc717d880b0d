"""``deploy bootstrap``."""

from pathlib import Path
from typing import Any

import click

from nixkube_deploy.cli.complete import complete_selector
from nixkube_deploy.cli.options import (
    acting_options,
    build_options,
    inventory_argument,
    make_request,
    run_async,
    yes_wipe_option,
)


@click.command()
@inventory_argument
@click.option(
    "--on", metavar="SELECTOR", required=True, shell_complete=complete_selector, help="The machines to install."
)
@yes_wipe_option
@build_options
@acting_options
def command(inventory: Path, on: str, **options: Any) -> int:
    """Install NixOS on bare or foreign machines with nixos-anywhere, several at once, phase by phase.

    The disks named in the inventory are wiped. A machine that runs NixOS, is a member of the cluster, or is not the
    one the inventory expects, is refused unless --yes-wipe names it. Cut off and run again, it goes on where it was.

    \b
    deploy bootstrap inventory.yaml --on 'w4,w5'
    """
    from nixkube_deploy.app.commands import apply
    from nixkube_deploy.cli.console import open_console

    console = open_console(**{name: options.pop(name) for name in ("yes", "as_json", "events", "log")})
    request = make_request(inventory, on, bootstrap=True, only_install=True, **options)
    return console.conclude(run_async(apply, request, console))

"""``deploy reboot``."""

from pathlib import Path
from typing import Any

import click

from nixkube_deploy.cli.options import (
    acting_options,
    inventory_argument,
    make_request,
    on_option,
    run_async,
    strategy_options,
)


@click.command()
@inventory_argument
@on_option
@click.option(
    "--needed/--all",
    "needed",
    default=True,
    help="Only hosts whose booted kernel is not the current one, or whose next boot is another system; or all.",
)
@strategy_options
@acting_options
def command(inventory: Path, on: str | None, needed: bool, **options: Any) -> int:
    """Reboot hosts in rolling waves: same drain, same gates, same budget as apply. Changes no configuration.

    Only within strategy.windows, where there are any; what strategy.reboot_blockers names is waited for first.

    \b
    deploy reboot inventory.yaml
    deploy reboot inventory.yaml --all --on zone=b --max-unavailable 1
    """
    from nixkube_deploy.app.commands import reboot
    from nixkube_deploy.cli.console import open_console

    console = open_console(**{key: options.pop(key) for key in ("yes", "as_json", "events", "log")})
    return console.conclude(run_async(reboot, make_request(inventory, on, **options), needed, console))

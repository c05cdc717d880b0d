"""``deploy rollback``."""

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
@click.option("--to-run", metavar="RUN", help="What each host ran before this run (default: the last run).")
@strategy_options
@acting_options
def command(inventory: Path, on: str | None, to_run: str | None, **options: Any) -> int:
    """Take hosts back to the system each had before a run; same waves, same gates as apply.

    \b
    deploy rollback inventory.yaml
    deploy rollback inventory.yaml --to-run 20261122T204931Z-3fa9 --on w3
    """
    from nixkube_deploy.app.commands import rollback
    from nixkube_deploy.cli.console import open_console

    console = open_console(**{key: options.pop(key) for key in ("yes", "as_json", "events", "log")})
    return console.conclude(run_async(rollback, make_request(inventory, on, **options), to_run, console))

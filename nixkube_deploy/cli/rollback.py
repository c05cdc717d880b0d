"""``deploy rollback``."""

from pathlib import Path
from typing import Any

import click

from nixkube_deploy.cli.complete import complete_run
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
    "--to-run", metavar="RUN", shell_complete=complete_run,
    help="What each host ran before this run (default: the last run).",
)  # fmt: skip
@click.option(
    "--to-generation", metavar="N", type=click.IntRange(min=1), help="Generation N of each host's own system profile."
)
@strategy_options
@acting_options
def command(inventory: Path, on: str | None, to_run: str | None, to_generation: int | None, **options: Any) -> int:
    """Take hosts back to the system each had before a run, or to a generation; same waves, same gates as apply.

    \b
    deploy rollback inventory.yaml
    deploy rollback inventory.yaml --to-run 20261122T204931Z-3fa9 --on w3
    deploy rollback inventory.yaml --to-generation 41 --on w3
    """
    from nixkube_deploy.app.commands import rollback
    from nixkube_deploy.cli.console import open_console
    from nixkube_deploy.model.error import UsageError

    if to_run is not None and to_generation is not None:
        raise UsageError("--to-run and --to-generation name two different systems", hint="give one of them")
    console = open_console(**{key: options.pop(key) for key in ("yes", "as_json", "events", "log")})
    request = make_request(inventory, on, **options)
    return console.conclude(run_async(rollback, request, to_run, to_generation, console))

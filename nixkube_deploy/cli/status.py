"""``deploy status``."""

from pathlib import Path

import click

from nixkube_deploy.cli.options import inventory_argument, json_option, make_request, on_option, run_async


@click.command()
@inventory_argument
@on_option
@click.option("--watch", is_flag=True, help="Look again every few seconds until interrupted.")
@click.option("--interval", type=click.FloatRange(min=0.5), default=5.0, show_default=True, help="Seconds for --watch.")
@click.option("--no-eval", is_flag=True, help="Do not evaluate the flake (no drift column, much faster).")
@json_option
def command(inventory: Path, on: str | None, watch: bool, interval: float, no_eval: bool, as_json: bool) -> int:
    """One row a host: reachable, generation, drift, kernel, kubelet, node, disk.

    Exits 0 when every host answers and runs what the flake says, else 4.

    \b
    deploy status inventory.yaml
    deploy status inventory.yaml --on zone=a --watch
    """
    from functools import partial

    from nixkube_deploy.app.views import status, watch_status
    from nixkube_deploy.cli.console import open_console
    from nixkube_deploy.cli.tables import show_again, show_status

    console = open_console(as_json=as_json)
    request = make_request(inventory, on)
    if watch:
        run_async(watch_status, request, not no_eval, interval, partial(show_again, console))
        return 0
    rows = run_async(status, request, console, not no_eval)
    show_status(console, rows)
    return 0 if all(row.reachable and not row.drifted for row in rows) else 4

"""``deploy show``."""

import click

from nixkube_deploy.cli.options import json_option, run_argument


@click.command()
@run_argument
@json_option
def command(run: str | None, as_json: bool) -> None:
    """Show one run: what every host did, failures with their evidence. Without RUN, the latest.

    \b
    deploy show
    deploy show 20261122T204931Z-3fa9 --json
    """
    from nixkube_deploy.app.views import read_run
    from nixkube_deploy.cli.console import open_console
    from nixkube_deploy.cli.tables import show_run

    show_run(open_console(as_json=as_json), read_run(run))

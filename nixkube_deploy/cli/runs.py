"""``deploy runs``."""

import click

from nixkube_deploy.cli.options import json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the runs this controller knows, newest first.

    \b
    deploy runs
    deploy runs --json | jq -r '.[0].run'
    """
    from nixkube_deploy.app.views import list_runs
    from nixkube_deploy.cli.console import open_console
    from nixkube_deploy.cli.tables import show_runs

    show_runs(open_console(as_json=as_json), list_runs())

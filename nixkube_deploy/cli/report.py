"""``deploy report``."""

from pathlib import Path

import click

from nixkube_deploy.cli.options import json_option


@click.command()
@click.argument("run", required=False)
@click.option(
    "--output", "-o", metavar="FILE|-", help="Where the page goes; '-' is stdout. The run's id with .html when absent."
)
@json_option
def command(run: str | None, output: str | None, as_json: bool) -> None:
    """Write one run as a single page of HTML: timeline, failures, what changed. Without RUN, the latest.

    The page needs nothing else: no network, no script. --json prints what `deploy show --json` does in its place.

    \b
    deploy report -o last.html
    deploy report 20261122T204931Z-3fa9 -o night.html
    deploy report -o - | ssh web 'cat > /srv/www/last.html'
    """
    from nixkube_deploy.app.report import read_report, write_report
    from nixkube_deploy.cli.console import open_console
    from nixkube_deploy.cli.tables import show_run

    console = open_console(as_json=as_json)
    found = read_report(run)
    if as_json:
        show_run(console, found.stored)
    if as_json and output is None:
        return
    if output == "-":
        click.echo(found.html, nl=False)
        return
    path = Path(output or f"{found.stored.run}.html")
    write_report(path, found.html)
    console.say(f"{path}: run {found.stored.run}, {len(found.html.encode()) / 1024:.0f} KiB")

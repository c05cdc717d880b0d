"""``deploy resume``."""

from pathlib import Path
from typing import Any

import click

from nixkube_deploy.cli.options import events_option, json_option, log_option, run_argument, run_async


@click.command()
@run_argument
@json_option
@events_option
@log_option
def command(run: str | None, as_json: bool, events: str | None, log: Path | None, **_options: Any) -> int:
    """Finish a run that was cut off: what is done is not repeated, what was begun is verified first.

    Without RUN, the latest unfinished one.

    \b
    deploy resume
    deploy resume 20261122T204931Z-3fa9
    """
    from nixkube_deploy.app.commands import resume
    from nixkube_deploy.cli.console import open_console

    console = open_console(yes=True, as_json=as_json, events=events, log=log)
    return console.conclude(run_async(resume, run, console))

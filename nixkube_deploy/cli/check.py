"""``deploy check``."""

from pathlib import Path
from typing import Any

import click

from nixkube_deploy.cli.complete import complete_host
from nixkube_deploy.cli.options import (
    evaluation_options,
    inventory_argument,
    json_option,
    make_request,
    on_option,
    run_async,
)


@click.command()
@inventory_argument
@on_option
@evaluation_options
@click.option(
    "--explain", metavar="HOST", shell_complete=complete_host,
    help="Print each effective setting of HOST and where it comes from.",
)  # fmt: skip
@click.option("--static", is_flag=True, help="Only read the inventory; connect to nothing.")
@click.option("--strict", is_flag=True, help="What could not be looked at from here counts as failed, too.")
@json_option
def command(inventory: Path, on: str | None, explain: str | None, static: bool, as_json: bool, **options: Any) -> int:
    """Check the inventory, the flake and every host, before anything is touched.

    Exits 0 when nothing is wrong, 2 when the inventory is, 3 when a check failed. What this machine cannot look at
    (it has no nix, or no network; an address is still an example's) is listed, and is no failure without --strict.

    \b
    deploy check inventory.yaml
    deploy check inventory.yaml --static
    deploy check inventory.yaml --explain w1
    """
    from nixkube_deploy.app.views import check, check_static, explain_host
    from nixkube_deploy.cli.console import open_console
    from nixkube_deploy.cli.tables import show_findings

    console = open_console(as_json=as_json)
    if explain is not None:
        console.data.tell(explain_host(inventory, explain).rstrip("\n"))
        return 0
    strict = options.pop("strict")
    request = make_request(inventory, on, **options)
    if static:
        click.echo(check_static(request))
        return 0
    findings = run_async(check, request, console)
    show_findings(console, findings)
    return 3 if any(finding.failure or (strict and finding.unchecked) for finding in findings) else 0

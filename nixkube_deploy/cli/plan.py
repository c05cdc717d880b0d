"""``deploy plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nixkube_deploy.cli.options import (
    build_options,
    evaluation_options,
    inventory_argument,
    json_option,
    make_request,
    mode_option,
    on_option,
    run_async,
    strategy_options,
    yes_wipe_option,
)

if TYPE_CHECKING:
    from nixkube_deploy.cli.console import TerminalConsole


@click.command()
@inventory_argument
@on_option
@strategy_options
@evaluation_options
@build_options
@mode_option()
@click.option("--bootstrap", is_flag=True, help="Plan the installation of hosts that do not run NixOS.")
@yes_wipe_option
@click.option("--diff", is_flag=True, help="Show what changes in each closure: packages, sizes, what must travel.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Save the plan for deploy apply PLAN.json.")
@click.option("--graph", type=click.Choice(["mermaid", "dot"]), help="Print the task graph instead.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when there are changes (as terraform plan).")
@json_option
def command(inventory: Path, on: str | None, **options: Any) -> int:
    """Show everything apply would do, per host: class, reasons, waves, risks. Touches nothing.

    Exits 3 when a host cannot be planned.

    \b
    deploy plan inventory.yaml
    deploy plan inventory.yaml --diff
    deploy plan inventory.yaml --graph mermaid > plan.mmd
    deploy plan inventory.yaml -o plan.json && deploy apply plan.json
    """
    import json

    from nixkube_deploy.app.begin import begin

    output, graph, detailed, as_json = (options.pop(k) for k in ("output", "graph", "detailed_exitcode", "as_json"))
    console, made = run_async(begin, "plan", make_request(inventory, on, **options), _open_console)
    from nixkube_deploy.app.saved import write_plan
    from nixkube_deploy.model.graph_codec import plan_to_plain
    from nixkube_deploy.plan.explain import describe, dot, mermaid
    from nixkube_deploy.ui.planpaint import painted

    if output is not None:
        write_plan(made, output)
        click.echo(f"saved to {output}; run exactly this with: deploy apply {output}", err=True)
    if as_json:
        click.echo(json.dumps(plan_to_plain(made)))
    elif graph is not None:
        click.echo(mermaid(made) if graph == "mermaid" else dot(made))
    else:
        console.data.tell(describe(made), painted)
    if any(host.problem is not None for host in made.hosts):
        return 3
    return 2 if detailed and made.changes_anything else 0


def _open_console() -> "TerminalConsole":
    from nixkube_deploy.cli.console import open_console

    return open_console()

"""``deploy apply``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nixkube_deploy.cli.options import (
    DRY_ACTIVATE,
    build_options,
    evaluation_options,
    events_option,
    inventory_or_here,
    json_option,
    log_option,
    make_request,
    mode_option,
    on_option,
    run_async,
    strategy_options,
    yes_option,
    yes_wipe_option,
)

if TYPE_CHECKING:
    from nixkube_deploy.cli.console import TerminalConsole


@click.command()
@inventory_or_here("[INVENTORY|PLAN.json]")
@on_option
@strategy_options
@evaluation_options
@build_options
@mode_option(DRY_ACTIVATE, tells="; dry-activate: change nothing, say host by host what a switch would stop and start")
@click.option("--bootstrap", is_flag=True, help="Install NixOS on hosts that do not run it.")
@yes_wipe_option
@click.option("--fresh", is_flag=True, help="Plan anew instead of finishing a run that was cut off.")
@click.option("--resume", is_flag=True, help="Only finish a run that was cut off; do nothing when there is none.")
@yes_option
@json_option
@events_option
@log_option
def command(inventory: Path, on: str | None, **options: Any) -> int:
    """Bring every selected host to the configuration its flake says.

    Probes, evaluates and builds first; then, wave by wave inside the disruption budget: cordon, drain, switch or
    reboot, prove, gate, uncordon. A run that was cut off is taken up where it stopped. With a saved plan, exactly
    those store paths and waves, refused when the world has moved.

    \b
    deploy apply inventory.yaml
    deploy apply inventory.yaml --on '@workers&zone=a' --max-unavailable 2
    deploy apply inventory.yaml --mode boot && deploy reboot inventory.yaml
    deploy plan inventory.yaml -o plan.json && deploy apply plan.json
    """
    from nixkube_deploy.app.begin import begin
    from nixkube_deploy.app.request import is_plan

    opening = {key: options.pop(key) for key in ("yes", "as_json", "events", "log")}
    only_resume = options.pop("resume")
    if is_plan(inventory):
        from nixkube_deploy.app.commands import apply_saved

        skip_unreachable = options.pop("skip_unreachable")
        _refuse_options(on=on, resume=only_resume, **options)
        console = _open_console(**opening)
        report = run_async(apply_saved, inventory, skip_unreachable, console)
    elif options["mode"] == DRY_ACTIVATE:
        return _dry_activate(inventory, on, _open_console(**opening), **options)
    elif only_resume:
        from nixkube_deploy.app.commands import resume_only

        console = _open_console(**opening)
        report = run_async(resume_only, make_request(inventory, on, **options), console)
    else:
        console, report = run_async(
            begin, "apply", make_request(inventory, on, **options), partial(_open_console, **opening)
        )
    return console.conclude(report)


def _open_console(**opening: Any) -> "TerminalConsole":
    from nixkube_deploy.cli.console import open_console

    return open_console(**opening)


def _dry_activate(inventory: Path, on: str | None, console: "TerminalConsole", **options: Any) -> int:
    """Nothing is changed, so nothing is asked and nothing can be taken up. Exits 4 when a host could not tell."""
    from nixkube_deploy.app.dryrun import dry_activate
    from nixkube_deploy.cli.tables import show_dry_runs

    del options["mode"]
    found = run_async(dry_activate, make_request(inventory, on, **options), console)
    show_dry_runs(console, found)
    return 4 if any(each.failure is not None for each in found) else 0


def _refuse_options(**options: Any) -> None:
    """A saved plan has been decided: what would decide it again is a mistake, not a wish to be ignored.

    Raises:
        UsageError: an option that only makes sense with an inventory.
    """
    from nixkube_deploy.model.error import UsageError

    given = ["--" + name.replace("_", "-") for name, value in options.items() if value not in (None, False, ())]
    if given:
        raise UsageError(
            f"{', '.join(given)}: a saved plan is run exactly as it was reviewed",
            hint="give the option to deploy plan, and save that",
        )

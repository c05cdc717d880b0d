"""``deploy rehearse``: hands over to ``nixkube-lab``; no production module imports the lab."""

import os
import sys

import click

from nixkube_deploy.cli.options import inventory_here


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("inventory", required=False)
@click.option("--fault", "faults", multiple=True, metavar="HOST:KIND[=ARG][*N]", help="A fault to script; repeatable.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(inventory: str | None, faults: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Run apply on a simulated twin of INVENTORY. Nothing real is touched.

    The twin has the same hosts, groups and strategy; its hosts are SSH servers on loopback, its cluster a simulated
    API server. Durations of the strategy are scaled down. ARGUMENTS after -- go to apply.

    \b
    deploy rehearse inventory.yaml
    deploy rehearse inventory.yaml --fault 'w2:switch=4' --fault 'w3:reboot-never-returns'
    nixkube-lab fault list                what can go wrong
    """
    if inventory is not None and inventory.startswith("-"):  # What comes after -- is apply's.
        arguments = (inventory, *arguments)
        inventory = None
    flags = [part for fault in faults for part in ("--fault", fault)]
    extra = ["--", *arguments] if arguments else []
    hand_over(["rehearse", inventory or str(inventory_here()), *flags, *extra])


def hand_over(arguments: list[str]) -> None:
    """Become ``nixkube-lab``."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "nixkube_deploy.lab", *arguments])  # noqa: S606 (an argv, no shell)

"""``deploy lab``: the same as ``nixkube-lab``."""

import click

from nixkube_deploy.cli.rehearse import hand_over


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """A simulated fleet on loopback: up, down, status, run -- CMD."""
    hand_over(list(arguments) or ["--help"])

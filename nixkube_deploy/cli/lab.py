"""``deploy lab``: the same as ``nixkube-lab``."""

import click

from nixkube_deploy.cli.rehearse import hand_over

COMMANDS = ("up", "down", "status", "run", "rehearse", "fault", "env")
"""What ``nixkube-lab`` knows: that module is not for production code to import."""


def _commands(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(incomplete)]


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=_commands)
def command(arguments: tuple[str, ...]) -> None:
    """A simulated fleet on loopback: up, down, status, run -- CMD."""
    hand_over(list(arguments) or ["--help"])

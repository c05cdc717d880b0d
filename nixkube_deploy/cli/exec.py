"""``deploy exec``."""

from pathlib import Path

import click

from nixkube_deploy.cli.options import json_option, make_request, on_option, run_async


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@on_option
@click.option("--root", "privileged", is_flag=True, help="Become root with the host's sudo, doas or run0.")
@click.option("--timeout", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Seconds per host.")
@json_option
@click.argument("inventory", type=click.Path(path_type=Path))
@click.argument("words", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    inventory: Path, on: str | None, privileged: bool, timeout: float, as_json: bool, words: tuple[str, ...]
) -> int:
    """Run a command on many hosts at once; output is grouped by host.

    One word is run by the hosts' shell; several are one program with its arguments, quoted as they are.
    Options come before INVENTORY. Exits 0 when every host's command did, else 4.

    \b
    deploy exec --on @workers inventory.yaml -- uname -r
    deploy exec --root inventory.yaml -- 'journalctl -u k3s -n 5 | tail -1'
    """
    from functools import partial

    from nixkube_deploy.app.views import run_command
    from nixkube_deploy.cli.console import open_console
    from nixkube_deploy.cli.tables import show_output
    from nixkube_deploy.ports.shell import Command

    if words[0] == "--":
        words = words[1:]
    elif words[0].startswith("-"):  # It would be run, and on every host.
        raise click.UsageError(f"{words[0]}: options come before INVENTORY, and -- before a command that begins so")
    if not words:
        raise click.UsageError("what should run? deploy exec INVENTORY -- CMD...")
    argv = ("sh", "-c", words[0]) if len(words) == 1 else words
    console = open_console(as_json=as_json)
    wanted = Command(argv=argv, stdin="", privileged=privileged, timeout=timeout)
    outputs = run_async(run_command, make_request(inventory, on), wanted, partial(show_output, console))
    if as_json:
        console.print_json(outputs)
    return 0 if all(output.ok for output in outputs) else 4

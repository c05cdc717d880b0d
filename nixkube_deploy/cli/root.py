"""The ``deploy`` command: a table of commands, each imported only when it is called or asked for help."""

import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from nixkube_deploy import __version__
from nixkube_deploy.cli.exit import exit_code_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: dict[str, str] = {
    "init": "Write an inventory and a flake for a new cluster.",
    "apply": "Bring every selected host to the configuration its flake says.",
    "plan": "Show everything apply would do; touch nothing.",
    "bootstrap": "Install NixOS on bare machines with nixos-anywhere.",
    "reboot": "Reboot the hosts that need it, in rolling waves.",
    "rollback": "Take hosts back to what they ran before a run.",
    "resume": "Finish a run that was cut off.",
    "status": "One row a host: generation, drift, kernel, kubelet, node.",
    "check": "Check the inventory, and every host live, before anything is touched.",
    "exec": "Run a command on many hosts at once.",
    "rehearse": "Run apply on a simulated twin of the inventory, on loopback.",
    "runs": "List the runs this controller knows.",
    "show": "Show one run.",
    "report": "Write one run as a single page of HTML.",
    "schema": "Print the JSON Schema of the inventory.",
    "completion": "Print what makes a shell complete these commands.",
    "lab": "Start, stop and use the simulated fleet.",
}
"""Name and one-line help; the module is ``nixkube_deploy.cli.<name>`` (``exec`` and ``lab`` as they are)."""

EPILOG = """\b
Exit codes:
    0  converged            4  rollout failed and halted
    1  a bug                5  rollout failed and rolled back
    2  usage or inventory   6  locked by somebody else
    3  refused, untouched   130  interrupted
"""


class LazyGroup(click.Group):
    """A group whose commands are imported on demand: start-up time is a feature."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's interface)
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"nixkube_deploy.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table, without importing what it names."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        """The table, without importing what it names."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=tells) for name, tells in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a mistyped command."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " See deploy --help."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="nixkube-deploy")
def root() -> None:
    """Take a fleet of NixOS Kubernetes nodes from what they are to what their flake says.

    \b
    deploy init homelab                   an inventory and a flake to begin with
    deploy plan inventory.yaml            what would be done, and why
    deploy apply inventory.yaml           do it, wave by wave
    deploy rehearse inventory.yaml        do it to a simulated twin first
    """


def run() -> None:
    """Run the command line and exit with the documented code."""
    code = exit_code_of(lambda: root(standalone_mode=False))
    gc.freeze()  # The interpreter's last walk through everything would find nothing that matters any more.
    sys.exit(code)

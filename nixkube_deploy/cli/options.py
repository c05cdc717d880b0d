"""Options that several commands share, and how text becomes the values ``app`` wants."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nixkube_deploy.cli.complete import complete_host, complete_run, complete_selector

if TYPE_CHECKING:
    from nixkube_deploy.app.request import Overrides, Request
    from nixkube_deploy.model.action import SwitchMode
    from nixkube_deploy.model.strategy import Limit

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_ALL = 100
"""Percent."""

INVENTORY = "inventory.yaml"
"""What is taken when no inventory is named."""


def inventory_here() -> Path:
    """The inventory of this folder.

    Raises:
        UsageError: there is none.
    """
    if Path(INVENTORY).is_file():
        return Path(INVENTORY)
    raise click.UsageError(f"no INVENTORY was named, and there is no {INVENTORY} here (deploy init DIR makes one)")


def inventory_or_here(metavar: str = "[INVENTORY]") -> Callable[[F], F]:
    """The argument, for commands that take ``inventory.yaml`` of this folder when it is left out."""
    path = click.Path(path_type=Path)
    return click.argument("inventory", metavar=metavar, type=path, required=False, callback=_given_or_here)


def _given_or_here(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    return inventory_here() if value is None else value


inventory_argument = inventory_or_here()

on_option = click.option(
    "--on",
    metavar="SELECTOR",
    shell_complete=complete_selector,
    help="Only these hosts: web-1, @workers, zone=a, 'w*', '!x'; ',' is or, '&' is and.",
)
yes_wipe_option = click.option(
    "--yes-wipe", metavar="HOST", multiple=True, shell_complete=complete_host,
    help="Wipe HOST although a guard objects; repeatable.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print data as JSON on standard output.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask before acting.")
events_option = click.option(
    "--events", metavar="FILE|-", help="Write the typed event stream as JSON lines to FILE, or '-' for stdout."
)
log_option = click.option("--log", metavar="FILE", type=click.Path(path_type=Path), help="Write JSON logs to FILE.")


run_argument = click.argument("run", required=False, shell_complete=complete_run)


def acting_options(function: F) -> F:
    """What every command that changes hosts takes: no question, and who watches (``cli.console.open_console``)."""
    return yes_option(json_option(events_option(log_option(function))))


def strategy_options(function: F) -> F:
    """The strategy's knobs that a command line may turn for one run."""
    decorators = (
        click.option("--canary", type=click.IntRange(min=0), help="Hosts in the first wave."),
        click.option("--max-unavailable", metavar="N|P%", help="Hosts of a group that may be down at once."),
        click.option("--max-failures", metavar="N|P%", help="Failed hosts after which nothing new is started."),
        click.option(
            "--on-failure", type=click.Choice(["rollback", "halt", "continue"]), help="What to do about a failed host."
        ),
        click.option("--reboot", type=click.Choice(["auto", "never", "always"]), help="Whether to reboot."),
        click.option("--no-drain", is_flag=True, help="Do not cordon and drain nodes."),
        click.option(
            "--ignore-blockers", is_flag=True, help="Reboot although what strategy.reboot_blockers names is there."
        ),
        click.option(
            "--skip-unreachable", is_flag=True, help="Go on without hosts that do not answer (they use up the budget)."
        ),
    )
    return functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), function)


DRY_ACTIVATE = "dry-activate"
_MODES = "switch: now and from the next boot on (the default); boot: only from the next boot on; test: only now, a "
_MODES += "reboot goes back"


def mode_option(*also: str, tells: str = "") -> Callable[[F], F]:
    """``--mode``; ``also`` are modes that only one command knows, ``tells`` what they do."""
    return click.option("--mode", type=click.Choice(["switch", "boot", "test", *also]), help=f"{_MODES}{tells}.")


def build_options(function: F) -> F:
    """How and where systems are built, by the names that Nix itself gives these options."""
    decorators = (
        click.option(
            "--build-on",
            type=click.Choice(["controller", "target"]),
            help="Where systems are built: here (and on its remote builders), or each on its own host.",
        ),
        click.option("--max-jobs", "-j", type=click.IntRange(min=0), help="Builds side by side; 0: remote ones only."),
        click.option("--cores", type=click.IntRange(min=0), help="Processors one build may use; 0: all."),
        click.option("--builders", metavar="TEXT", help="Remote builders, as in nix.conf; '' for none."),
        click.option(
            "--option", "nix_options", type=(str, str), metavar="NAME VALUE", multiple=True,
            help="Any other nix.conf setting for building; repeatable.",
        ),
    )  # fmt: skip
    return functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), function)


def evaluation_options(function: F) -> F:
    """How the flake is evaluated, by the names that Nix itself gives these options."""
    decorators = (
        click.option("--impure", is_flag=True, help="Evaluate with --impure: nothing is kept for the next time."),
        click.option(
            "--override-input", type=(str, str), metavar="NAME FLAKE", multiple=True,
            help="Evaluate with another flake input, such as nixpkgs ./nixpkgs; flake.lock stays; repeatable.",
        ),
    )  # fmt: skip
    return functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), function)


def parse_limit(text: str | None, option: str, least: int = 0) -> "Limit | None":
    """``2`` or ``25%``.

    Raises:
        UsageError: anything else, less than ``least``, or more than all.
    """
    if text is None:
        return None
    from nixkube_deploy.model.error import UsageError
    from nixkube_deploy.model.strategy import Limit

    digits = text.removesuffix("%")
    if not digits.isascii() or not digits.isdigit():
        raise UsageError(f"{option}: {text!r} is neither a number nor a percentage", hint=f"{option} 2, {option} 25%")
    limit = Limit(int(digits), percent=text.endswith("%"))
    if limit.value < least or (limit.percent and limit.value > _ALL):
        raise UsageError(f"{option}: {text} is out of range: {least} hosts or more, or {least}% to {_ALL}%")
    return limit


def make_request(inventory: Path, on: str | None = None, **options: Any) -> "Request":
    """The request behind a command's options; unknown ones are a bug."""
    from nixkube_deploy.app.request import Overrides, Request
    from nixkube_deploy.model.action import SwitchMode
    from nixkube_deploy.model.building import BuildOn
    from nixkube_deploy.model.names import HostName
    from nixkube_deploy.model.strategy import OnFailure, RebootPolicy

    overrides = Overrides(
        canary=options.pop("canary", None),
        max_unavailable=parse_limit(options.pop("max_unavailable", None), "--max-unavailable", 1),
        max_failures=parse_limit(options.pop("max_failures", None), "--max-failures"),
        on_failure=OnFailure(value) if (value := options.pop("on_failure", None)) else None,
        reboot=RebootPolicy(value) if (value := options.pop("reboot", None)) else None,
        no_drain=options.pop("no_drain", False),
        ignore_blockers=options.pop("ignore_blockers", False),
        impure=options.pop("impure", False),
        override_inputs=dict(options.pop("override_input", ())),
        max_jobs=options.pop("max_jobs", None),
        cores=options.pop("cores", None),
        builders=options.pop("builders", None),
        nix_options=dict(options.pop("nix_options", ())),
        build_on=BuildOn(value) if (value := options.pop("build_on", None)) else None,
    )
    mode = SwitchMode(options.pop("mode", None) or SwitchMode.SWITCH)
    refuse_mode(mode, overrides, bootstrap=options.get("bootstrap", False))
    wipe = frozenset(HostName(name) for name in options.pop("yes_wipe", ()))
    return Request(inventory=inventory, on=on, overrides=overrides, mode=mode, yes_wipe=wipe, **options)


def refuse_mode(mode: "SwitchMode", overrides: "Overrides", *, bootstrap: bool) -> None:
    """What a mode contradicts.

    Raises:
        UsageError: with the line to type instead.
    """
    from nixkube_deploy.model.action import SwitchMode
    from nixkube_deploy.model.error import UsageError
    from nixkube_deploy.model.strategy import RebootPolicy

    if mode is SwitchMode.SWITCH:
        return
    if bootstrap:
        raise UsageError(
            f"--mode {mode} and --bootstrap: a machine is installed as a whole",
            hint="deploy bootstrap INVENTORY --on HOST first, then the rest with --mode",
        )
    if overrides.reboot is RebootPolicy.ALWAYS:
        instead = "deploy reboot INVENTORY --all afterwards" if mode is SwitchMode.BOOT else "leave one of them out"
        ends = "reboots nothing" if mode is SwitchMode.BOOT else "ends with a reboot"
        raise UsageError(f"--mode {mode} {ends}, and --reboot always reboots every host", hint=instead)


def run_async(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run the conductor. asyncio, because asyncssh speaks it."""
    import gc

    import anyio

    gc.freeze()  # What is imported stays; walking through it, at the end above all, costs a tenth of a second.
    gc.enable()
    return anyio.run(function, *arguments, backend="asyncio")

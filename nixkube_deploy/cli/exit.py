"""Errors to exit codes and words: the one place where an exception meets the terminal."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nixkube_deploy.model.error import DeployError

INTERRUPTED = 130


def exit_code_of(command: Callable[[], object]) -> int:
    """Run ``command``; print what it raised as a person needs it; return the documented exit code."""
    try:
        result = command()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; nothing was started", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:  # noqa: BLE001 (the last line of defence)
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: BaseException) -> int:
    from nixkube_deploy.model.error import DeployError, TaskError

    for cause in _leaves(error):
        if isinstance(cause, DeployError):
            show_error(cause)
            return cause.exit_code
        if isinstance(cause, KeyboardInterrupt):
            click.echo("\ninterrupted", err=True)
            return INTERRUPTED
    leaves = _leaves(error)
    failures = [cause.failure for cause in leaves if isinstance(cause, TaskError)]
    if len(failures) == len(leaves):  # Among them a bug would go unseen.
        from nixkube_deploy.ui.failure import render_failure

        click.echo("error: " + render_failure("preflight", failures[0]), err=True)
        return 3
    traceback.print_exception(error)
    click.echo(
        "\nThis is a bug in nixkube-deploy. What it was doing is in the journal: deploy runs\n"
        "Please report it with the lines above.",
        err=True,
    )
    return 1


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions inside (nested) groups; task groups wrap even a single one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def show_error(error: "DeployError") -> None:
    """What happened, each failure in full, and what to type next."""
    click.echo(f"error: {error.message}", err=True)
    failures = getattr(error, "failures", ())
    if failures:
        from nixkube_deploy.ui.failure import render_failure

        for subject, failure in failures:
            click.echo("\n" + render_failure(subject, failure), err=True)
    if error.hint:
        click.echo(f"\nhint: {error.hint}", err=True)

"""Interim console."""

import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from nixkube_deploy.app.deploy import Report
from nixkube_deploy.model.codec import to_plain
from nixkube_deploy.model.event import Record, TaskReported
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.explain import describe
from nixkube_deploy.ports.sink import Sink


class _Printer:
    def saw(self, record: Record) -> None:
        print(f"{record.at:.2f}", record.event, file=sys.stderr)

    def heard(self, report: TaskReported) -> None:
        print("   ", report.task, report.line, file=sys.stderr)


class TerminalConsole:
    def __init__(self, yes: bool, as_json: bool) -> None:
        self.yes, self.as_json = yes, as_json

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def approve(self, plan: Plan) -> bool:
        click.echo(describe(plan), err=True)
        return self.yes or click.confirm("go on?", err=True)

    @asynccontextmanager
    async def watch(self, plan: Plan, run: RunId) -> AsyncIterator[tuple[Sink, ...]]:
        yield (_Printer(),)

    def conclude(self, report: Report) -> int:
        click.echo(f"{report.run} {report.outcome}", err=True)
        return report.exit_code

    def show_status(self, rows: Iterable[Any]) -> None:
        for r in rows:
            click.echo(json.dumps(to_plain(r)))

    show_findings = show_status
    show_runs = show_status

    def show_run(self, stored: Any) -> None:
        click.echo(repr(stored))

    def show_output(self, output: Any) -> None:
        click.echo(repr(output))

    def show_outputs(self, outputs: Any) -> None: ...


def open_console(
    *, yes: bool = False, as_json: bool = False, events: str | None = None, log: Path | None = None
) -> TerminalConsole:
    return TerminalConsole(yes, as_json)

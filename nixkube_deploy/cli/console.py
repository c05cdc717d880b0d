"""The terminal as the conductor sees it: progress, the plan and the question on stderr, data alone on stdout."""

import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.app.deploy import Report
from nixkube_deploy.model.codec import to_plain
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.model.event import Record
from nixkube_deploy.model.names import RunId
from nixkube_deploy.model.rollout import Plan
from nixkube_deploy.plan.explain import describe
from nixkube_deploy.ports.sink import Sink
from nixkube_deploy.ui.eyes import Watching
from nixkube_deploy.ui.eyes import watch as open_eyes
from nixkube_deploy.ui.jsonl import open_events
from nixkube_deploy.ui.planpaint import painted
from nixkube_deploy.ui.summary import summarise, summary_text
from nixkube_deploy.ui.terminal import Terminal, open_terminal


class TerminalConsole:
    """``app.console.Console`` at a terminal, in CI or in front of a program."""

    def __init__(self, *, yes: bool, as_json: bool, events: str | None, log: Path | None) -> None:
        if as_json and events == "-":
            raise UsageError("--json and --events - both want standard output", hint="--events FILE")
        self.as_json = as_json
        self.people: Terminal = open_terminal(sys.stderr, os.environ)
        self.data: Terminal = open_terminal(sys.stdout, os.environ)
        self._yes, self._events, self._log = yes, events, log
        self._refuse_unwritable()

    def _refuse_unwritable(self) -> None:
        """Said before an hour of building, not after it."""
        if self._events is not None:
            with open_events(self._events):
                pass
        if self._log is not None:
            from nixkube_deploy.ui.logs import logging_to

            with logging_to(self._log):
                pass

    def say(self, line: str) -> None:
        """One line of progress outside a run."""
        click.echo(line, err=True)

    def approve(self, plan: Plan) -> bool:
        """Show the plan; ask, unless told not to.

        Raises:
            UsageError: nobody is there to be asked.
        """
        self.people.tell("\n" + describe(plan), painted)
        if self._yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to say yes", hint="add --yes")
        return click.confirm("Do this?", err=True)

    @asynccontextmanager
    async def watch(self, plan: Plan, run: RunId, past: Iterable[Record]) -> AsyncIterator[tuple[Sink, ...]]:
        """A live screen or plain lines, the event stream and the log if they were asked for."""
        if self.people.interactive:  # Plain lines say it themselves.
            self.say(f"run {run}")
        watching = Watching(terminal=self.people, events=self._events, past=past)
        async with AsyncExitStack() as stack:
            sinks = await stack.enter_async_context(open_eyes(plan, SystemClock(), watching))
            if self._log is not None:
                from nixkube_deploy.ui.eventlog import EventLog
                from nixkube_deploy.ui.logs import logging_to

                stack.enter_context(logging_to(self._log))
                sinks = (*sinks, EventLog(plan, run))
            yield sinks

    def conclude(self, report: Report) -> int:
        """The summary, for people or as JSON, and the exit code."""
        summary = summarise(report.plan, report.records)
        if self.as_json:
            self.print_json(summary)
        else:
            if self.people.interactive and report.run is not None:
                self.say("")  # The last picture of the run stands right above.
            self.people.show(summary_text(summary, self.people.width))
        return report.exit_code

    def print_json(self, value: object) -> None:
        """Data on standard output."""
        click.echo(json.dumps(to_plain(value)))


def open_console(
    *, yes: bool = False, as_json: bool = False, events: str | None = None, log: Path | None = None, **_: Any
) -> TerminalConsole:
    """The console for one command's options."""
    return TerminalConsole(yes=yes, as_json=as_json, events=events, log=log)

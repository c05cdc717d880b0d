"""The page of one run: read from its journal, made by ``ui.report``, written whole or not at all. It changes no run."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from nixkube_deploy.app.state import state_directory
from nixkube_deploy.app.views import read_run
from nixkube_deploy.journal.history import Stored
from nixkube_deploy.journal.layout import journal_path
from nixkube_deploy.journal.lock import holder_of
from nixkube_deploy.model.error import UsageError
from nixkube_deploy.ui.report.page import page


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """A run and its page."""

    stored: Stored
    html: str


def read_report(run: str | None) -> RunPage:
    """The page of a run, of the latest when None.

    Raises:
        UsageError: there is no such run.
        DeployError: its journal is damaged.
    """
    stored = read_run(run)
    alive = holder_of(journal_path(state_directory(), stored.run))
    html = page(stored.run, stored.plan, stored.records, str(alive) if alive is not None else "")
    return RunPage(stored=stored, html=html)


def write_report(path: Path, html: str) -> None:
    """Write the page; what was there before stays until the new one is whole.

    Raises:
        UsageError: it cannot be written there.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"deploy report -o {path / 'run.html'}")
    try:
        with NamedTemporaryFile("w", dir=path.parent, prefix=".report-", encoding="utf-8", delete=False) as file:
            file.write(html)
        try:
            Path(file.name).replace(path)
        except OSError:
            with suppress(OSError):
                Path(file.name).unlink()
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="deploy report -o FILE") from error

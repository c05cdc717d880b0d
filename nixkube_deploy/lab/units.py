"""systemd's view of one machine: units and timers as plain values.

It knows the words systemd uses for states; it starts nothing.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Unit:
    """One loaded unit. ``active``, ``sub`` and ``result`` are systemd's own words."""

    name: str
    description: str = ""
    version: str = ""
    """What the unit runs, as the configuration says."""
    fragment: str = ""
    """Store path of the unit file; empty for transient units."""
    active: str = "active"
    sub: str = "running"
    result: str = "success"
    main_status: int = 0
    main_code: int = 0
    """How the main process ended: 0 not yet, 1 exited."""
    restarts: int = 0
    since: float = 0.0
    pid: int = 0
    kind: str = "simple"
    remain: bool = False
    collect: bool = False

    @property
    def is_active(self) -> bool:
        """What ``systemctl is-active`` answers with 0."""
        return self.active in ("active", "reloading")

    @property
    def is_transient(self) -> bool:
        """Whether systemd-run made it."""
        return not self.fragment

    def run(self, now: float, pid: int) -> None:
        """The main process runs. A oneshot is ``activating`` until it ends."""
        oneshot = self.kind == "oneshot"
        self.active, self.sub = ("activating", "start") if oneshot else ("active", "running")
        self.result, self.main_status, self.main_code = "success", 0, 0
        self.since, self.pid = now, pid

    def end(self, code: int, now: float) -> None:
        """The main process ended with ``code``."""
        self.main_status, self.main_code, self.pid, self.since = code, 1, 0, now
        if code:
            self.active, self.sub, self.result = "failed", "failed", "exit-code"
        elif self.remain:
            self.active, self.sub = "active", "exited"
        else:
            self.active, self.sub = "inactive", "dead"

    def stop(self, now: float) -> None:
        """Stopped on purpose: not a failure."""
        self.active, self.sub, self.pid, self.since = "inactive", "dead", 0, now

    def properties(self) -> dict[str, str]:
        """What ``systemctl show`` prints."""
        return {
            "Id": self.name,
            "Names": self.name,
            "Description": self.description or self.name,
            "LoadState": "loaded",
            "ActiveState": self.active,
            "SubState": self.sub,
            "Result": self.result,
            "Type": self.kind,
            "MainPID": str(self.pid),
            "ExecMainPID": str(self.pid),
            "ExecMainStatus": str(self.main_status),
            "ExecMainCode": str(self.main_code),
            "NRestarts": str(self.restarts),
            "RemainAfterExit": "yes" if self.remain else "no",
            "Transient": "yes" if self.is_transient else "no",
            "FragmentPath": self.fragment or f"/run/systemd/transient/{self.name}",
            "UnitFileState": "transient" if self.is_transient else "enabled",
            "NeedDaemonReload": "no",
        }


def missing_properties(name: str) -> dict[str, str]:
    """What ``systemctl show`` prints for a unit that does not exist."""
    unit = Unit(name=name, active="inactive", sub="dead")
    return {**unit.properties(), "LoadState": "not-found", "FragmentPath": "", "UnitFileState": "", "Transient": "no"}


@dataclass(slots=True, kw_only=True)
class Timer:
    """A transient timer: at ``due`` it starts a service of the same name."""

    name: str
    due: float
    argv: tuple[str, ...]
    service: str
    after: float = 0.0
    """Seconds between its start and ``due``."""
    properties: dict[str, str] = field(default_factory=dict)

    def restart(self, now: float) -> None:
        """Count from now."""
        self.due = now + self.after

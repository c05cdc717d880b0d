"""Where a host stands in the middle of a change: what it runs, what it booted, and which of our units it still has.

A smaller look than a probe, for the steps that change a host. It changes nothing itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nixkube_deploy.model.fleet import Host
from nixkube_deploy.model.names import RunId, StorePath
from nixkube_deploy.ports.shell import Shell
from nixkube_deploy.protocols import probe
from nixkube_deploy.protocols.script import Question, ask

PREFIX: Final = "nixkube-deploy-"
DEAD_MAN: Final = f"{PREFIX}deadman-"
FIRED: Final = "/run/nixkube-deploy.fired"
"""Names the dead-man timer that fired last since the boot: the unit it stopped must not be taken for one that never
started."""

WHERE: Final = (
    Question(name="current", command=f"readlink -f {probe.CURRENT}"),
    Question(name="booted", command=f"readlink -f {probe.BOOTED}"),
    Question(name="profile", command=f"readlink -f {probe.PROFILE}"),
    Question(name="boot_id", command="cat /proc/sys/kernel/random/boot_id"),
    Question(name="units", command=probe.OUR_UNITS),
    Question(name="fired", command=f"cat {FIRED}"),
)
"""Without the units that have failed, which systemd is asked for apart: for looks that judge nothing."""
LINKS: Final = tuple(each for each in WHERE if each.name != "units")
"""What runs, without asking what is at work."""
QUESTIONS: Final = (*WHERE, Question(name="failed", command=probe.FAILED_UNITS.command))
SYSTEM: Final = tuple(each for each in QUESTIONS if each.name != "units")
"""What runs, and what of it has failed: for looks that do not ask what is at work."""
_LIST_FIELDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One look at a host."""

    current: StorePath | None
    booted: StorePath | None
    profile: StorePath | None
    boot_id: str
    units: Mapping[str, str] = field(default_factory=dict)
    """Our transient units that systemd knows, with their ActiveState."""
    failed: tuple[str, ...] = ()
    fired: str = ""
    """The dead-man timer that fired last since the boot."""

    def has(self, unit: str) -> bool:
        """Whether systemd knows this service of ours."""
        return f"{unit}.service" in self.units

    def is_running(self, unit: str) -> bool:
        """Whether this service of ours has not ended yet."""
        return self.units.get(f"{unit}.service") in {"activating", "deactivating", "reloading"}

    def has_done(self, unit: str) -> bool:
        """Whether the program of this service of ours ended well; one that is still at work is not active yet."""
        return self.units.get(f"{unit}.service") == "active"

    def has_failed(self, unit: str) -> bool:
        """Whether it did not end well."""
        return self.units.get(f"{unit}.service") == "failed"

    @property
    def dead_men(self) -> tuple[str, ...]:
        """Dead-man timers that can still fire, of any run."""
        return tuple(u for u in self.units if u.startswith(DEAD_MAN) and u.endswith(".timer"))

    @property
    def going_back(self) -> bool:
        """Whether a dead-man timer has fired and its work is not finished."""
        services = (state for u, state in self.units.items() if u.startswith(DEAD_MAN) and u.endswith(".service"))
        return any(state in {"active", "activating"} for state in services)

    def leftovers(self, run: RunId) -> tuple[str, ...]:
        """Services of ``run``, whatever their state: their names must be free before they are used again."""
        return tuple(u for u in self.units if u.endswith(".service") and f"-{run}-" in u)

    @property
    def ended(self) -> tuple[str, ...]:
        """Services of any run whose program is over: kept until they were read, and of no use after that."""
        services = ((u, state) for u, state in self.units.items() if u.endswith(".service"))
        return tuple(u for u, state in services if state == "failed" or (state == "active" and DEAD_MAN not in u))

    def foreign(self, run: RunId) -> tuple[str, ...]:
        """Services of other runs that are changing the system right now."""
        return tuple(
            u
            for u, state in self.units.items()
            if u.endswith(".service") and f"-{run}-" not in u and state in {"activating", "deactivating"}
        )


async def look(shell: Shell, host: Host, questions: tuple[Question, ...] = QUESTIONS) -> Situation:
    """One round trip over the kept connection."""
    return situation(await ask(shell, host, questions))


def situation(found: Mapping[str, str]) -> Situation:
    """The answers to ``QUESTIONS`` as one value."""
    return Situation(
        current=probe.system_path(found.get("current", "")),
        booted=probe.system_path(found.get("booted", "")),
        profile=probe.system_path(found.get("profile", "")),
        boot_id=probe.boot_id(found.get("boot_id", "")),
        units=_states(found.get("units", "")),
        failed=probe.unit_names(found.get("failed", "")),
        fired=found.get("fired", ""),
    )


def _states(listing: str) -> dict[str, str]:
    """``UNIT LOAD ACTIVE SUB DESCRIPTION`` lines to unit and ActiveState."""
    rows = (line.split() for line in listing.splitlines())
    return {row[0]: row[2] for row in rows if len(row) >= _LIST_FIELDS and row[0].startswith(PREFIX)}

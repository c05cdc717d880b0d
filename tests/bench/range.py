"""The hosts the contenders compete on: the bed of real hosts, a flake that is changed, and what hosts answer."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.bench.contenders import Site
from tests.real.bed.fleet import RealFleet, real_fleet

_ACCEPTED = re.compile(r"^Accepted publickey for ", re.MULTILINE)


@dataclass(slots=True)
class Range:
    """One bed, as the measurements see it."""

    fleet: RealFleet
    site: Site
    _changes: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def environ(self) -> Mapping[str, str]:
        """The controller's."""
        return self.fleet.environment

    @property
    def outputs_suffix(self) -> str:
        """What this nix wants after a derivation's name: ``^out`` from 2.13 on."""
        found = re.search(r"(\d+)\.(\d+)", self.fleet.controller("nix", "--version").stdout)
        assert found is not None
        return "^out" if (int(found[1]), int(found[2])) >= (2, 13) else ""

    def here(self, argv: Sequence[str]) -> list[str]:
        """A program where the controller is."""
        return self.fleet.argv(*argv)

    def change(self) -> None:
        """One file of the flake, as it never was before: every host gets another /etc/motd, and no unit changes."""
        self.fleet.configure(files={"motd": f"change {next(self._changes)}\n"})

    def astray(self) -> list[str]:
        """Hosts whose running system or profile is not what the flake says."""
        evaluated = self.fleet.controller("sh", "-c", self.site.evaluate).stdout.splitlines()
        toplevels = {name: out for name, out, _ in map(str.split, evaluated)}
        wrong = []
        for name, host in self.fleet.hosts.items():
            wanted = toplevels[name]
            found = {host.current, host.profile}
            if found != {wanted}:
                wrong.append(f"{name}: {', '.join(sorted(found))} instead of {wanted}")
        return wrong

    def logins(self) -> int:
        """SSH logins that the hosts' sshds have accepted so far."""
        return sum(len(_ACCEPTED.findall(host.sshd_log)) for host in self.fleet.hosts.values())

    def inits(self) -> list[int]:
        """The hosts' first processes."""
        return [host.init for host in self.fleet.hosts.values()]


@contextmanager
def open_range(tier: int, hosts: int, work: Path, tools: Path) -> Iterator[Range]:
    """A bed for the length of the block; ``tools`` holds the competitors' programs."""
    with real_fleet(work / "bed", tier=tier, hosts=hosts) as fleet:
        site = Site(
            hosts={host.name: host.address for host in fleet.hosts.values()},
            flake=str(fleet.flake),
            key=fleet.key,
            known_hosts=fleet.known_hosts,
            work=work / "work",
            tools=tools,
        )
        yield Range(fleet=fleet, site=site)

"""One simulated machine as a plain state machine: profile, generations, boot loader, units, files. No clock, no I/O.

Whoever calls says what time it is; nothing here waits, prints or fails the way a program does.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from nixkube_deploy.lab.units import Timer, Unit

COMMANDS_KEPT = 200
JOURNAL_KEPT = 60
VOLATILE = ("/run/", "/tmp/", "/dev/shm/")  # noqa: S108 (paths on the simulated machine)
GIB = 1024**3


class Personality(StrEnum):
    """Which operating system the machine runs now."""

    NIXOS = "nixos"
    DEBIAN = "debian"
    INSTALLER = "installer"

    @property
    def has_nix(self) -> bool:
        """Whether Nix and a store are there."""
        return self is not Personality.DEBIAN


@dataclass(slots=True, kw_only=True)
class Generation:
    """One entry of the system profile."""

    number: int
    system: str
    at: float


@dataclass(slots=True, kw_only=True)
class Disk:
    """A file system's size in bytes."""

    total: int
    used: int

    @property
    def free(self) -> int:
        """Bytes left."""
        return max(0, self.total - self.used)


@dataclass(slots=True, kw_only=True)
class Loader:
    """The boot loader: which generations have an entry, which one is the default, which one is next only.

    The default is loader.conf's, unless an EFI variable pins another one. An entry that is not there is passed over.
    """

    kind: str = "systemd-boot"
    entries: list[int] = field(default_factory=list)
    default: int | None = None
    pinned: int | None = None
    one_shot: int | None = None
    loaded: str | None = None
    """The system that kexec holds ready, past the loader; gone with the power."""

    @property
    def chosen(self) -> int | None:
        """The entry that the next boot starts."""
        wanted = [number for number in (self.one_shot, self.pinned, self.default) if number in self.entries]
        return wanted[0] if wanted else max(self.entries, default=None)


@dataclass(slots=True, kw_only=True)
class Deed:
    """One command somebody ran."""

    at: float
    user: str
    command: str
    exit_code: int | None = None


@dataclass(slots=True, kw_only=True)
class Machine:
    """Everything that is true of one machine."""

    name: str
    hostname: str
    port: int
    architecture: str
    machine_id: str
    boot_id: str
    serial: str
    personality: Personality = Personality.NIXOS
    host_key: str = ""
    """Name of the key pair the machine's sshd presents."""
    powered: bool = True
    booted_at: float = 0.0
    kernel_release: str = ""
    current: str | None = None
    booted: str | None = None
    profile: int | None = None
    generations: dict[int, Generation] = field(default_factory=dict)
    loader: Loader = field(default_factory=Loader)
    roots: set[str] = field(default_factory=set)
    """Store paths that arrived with their closures."""
    links: dict[str, str] = field(default_factory=dict)
    """Links that keep store paths from the garbage collector, besides the profile."""
    store_disk: Disk = field(default_factory=lambda: Disk(total=64 * GIB, used=11 * GIB))
    boot_disk: Disk = field(default_factory=lambda: Disk(total=GIB, used=GIB // 8))
    units: dict[str, Unit] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    journal: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    prepared: str | None = None
    """The closure installed under /mnt, while the installer runs."""
    partitioned: bool = False
    disks: list[str] = field(default_factory=list)
    """Device paths."""
    at_work: str = ""
    """The disko script or nixos-install that runs in the installer, whoever started it."""
    boots: int = 1
    activations: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often each system was activated, by verb."""
    commands: list[Deed] = field(default_factory=list)

    # --- profile -------------------------------------------------------------------------------------------------

    def set_profile(self, system: str, now: float) -> int:
        """``nix-env --set``: a new generation, unless the newest one is this system already."""
        newest = max(self.generations, default=0)
        if not newest or self.generations[newest].system != system:
            newest += 1
            self.generations[newest] = Generation(number=newest, system=system, at=now)
        self.profile = newest
        self.roots.add(system)
        return newest

    def switch_generation(self, number: int) -> bool:
        """Point the profile at an older generation; False when there is none of that number."""
        if number not in self.generations:
            return False
        self.profile = number
        return True

    def previous_generation(self) -> int | None:
        """The generation before the current one."""
        return max((n for n in self.generations if self.profile is not None and n < self.profile), default=None)

    @property
    def profile_system(self) -> str | None:
        """What the system profile points to."""
        return self.generations[self.profile].system if self.profile is not None else None

    # --- boot ----------------------------------------------------------------------------------------------------

    def install_loader(self, systems: Collection[str]) -> None:
        """Write an entry for every generation; the one that is one of ``systems`` becomes the default."""
        self.loader.entries = sorted(self.generations)
        matching = [n for n, generation in self.generations.items() if generation.system in systems]
        if matching:
            self.loader.default = self.profile if self.profile in matching else max(matching)

    def take_boot_entry(self) -> str | None:
        """The system the loader starts now. A one-shot entry is used up by it."""
        chosen, self.loader.one_shot = self.loader.chosen, None
        generation = self.generations.get(chosen) if chosen is not None else None
        return generation.system if generation else None

    def shut_down(self) -> None:
        """Power goes: what lived in memory is gone."""
        self.powered = False
        self.loader.loaded = None
        self.units.clear()
        self.timers.clear()
        self.files = {path: text for path, text in self.files.items() if not path.startswith(VOLATILE)}
        self.folders = {path for path in self.folders if not (path + "/").startswith(VOLATILE)}

    def start_up(self, system: str | None, *, boot_id: str, kernel_release: str, now: float) -> None:
        """Power comes: a new boot of ``system`` (None: an operating system without generations)."""
        self.powered = True
        self.boots += 1
        self.boot_id = boot_id
        self.booted_at = now
        self.current = self.booted = system
        self.kernel_release = kernel_release

    # --- records -------------------------------------------------------------------------------------------------

    def record_activation(self, system: str, verb: str) -> None:
        """Count one run of switch-to-configuration."""
        counts = self.activations.setdefault(system, {})
        counts[verb] = counts.get(verb, 0) + 1

    def record_command(self, deed: Deed) -> None:
        """Keep the newest commands only."""
        self.commands.append(deed)
        del self.commands[:-COMMANDS_KEPT]

    def log(self, unit: str, text: str) -> None:
        """Add lines to a unit's journal."""
        lines = self.journal.setdefault(unit, [])
        lines.extend(text.splitlines())
        del lines[:-JOURNAL_KEPT]

    # --- plain data ----------------------------------------------------------------------------------------------

    def to_plain(self) -> dict[str, Any]:
        """JSON-ready."""
        plain = asdict(self)
        plain["roots"] = sorted(self.roots)
        plain["folders"] = sorted(self.folders)
        plain["generations"] = list(plain["generations"].values())
        plain["units"] = list(plain["units"].values())
        plain["timers"] = list(plain["timers"].values())
        return plain


def machine_from_plain(plain: dict[str, Any]) -> Machine:
    """The inverse of ``to_plain``."""
    generations = [Generation(**each) for each in plain["generations"]]
    units = [Unit(**each) for each in plain["units"]]
    timers = [Timer(**{**each, "argv": tuple(each["argv"])}) for each in plain["timers"]]
    parsed = {
        "personality": Personality(plain["personality"]),
        "generations": {each.number: each for each in generations},
        "units": {each.name: each for each in units},
        "timers": {each.name: each for each in timers},
        "loader": Loader(**plain["loader"]),
        "store_disk": Disk(**plain["store_disk"]),
        "boot_disk": Disk(**plain["boot_disk"]),
        "roots": set(plain["roots"]),
        "folders": set(plain["folders"]),
        "commands": [Deed(**each) for each in plain["commands"]],
    }
    return Machine(**{**plain, **parsed})

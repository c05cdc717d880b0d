"""From a host's configuration to the paths of its system: what evaluation knows before anything is built. Pure.

A NixOS system is modelled by the parts that decide how it can be brought to a host, and by nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nixkube_deploy.lab.storepath import nar_size, store_path

RELEASE = "25.11"
_BASE_UNITS = {
    "dbus.service": "1.16",
    "nix-daemon.service": "2.28",
    "sshd.service": "10.2",
    "systemd-journald.service": "",
    "systemd-logind.service": "",
    "systemd-networkd.service": "",
    "systemd-timesyncd.service": "",
}
_BASE_PACKAGES = {"bash": "5.3", "coreutils": "9.8", "glibc": "2.40", "nix": "2.28.5", "openssh": "10.2p1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One host's configuration, merged."""

    host: str
    system: str = "x86_64-linux"
    kernel: str = "6.12.8"
    kernel_params: tuple[str, ...] = ()
    systemd: str = "257.9"
    initrd: str = "1"
    inhibitors: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, host: str, plain: Mapping[str, Any]) -> "Configuration":
        """From merged JSON."""
        return cls(
            host=host,
            system=str(plain.get("system", "x86_64-linux")),
            kernel=str(plain.get("kernel", "6.12.8")),
            kernel_params=tuple(str(each) for each in plain.get("kernelParams", ())),
            systemd=str(plain.get("systemd", "257.9")),
            initrd=str(plain.get("initrd", "1")),
            inhibitors=str(plain.get("inhibitors", "")),
            units={str(k): str(v) for k, v in plain.get("units", {}).items()},
            packages={str(k): str(v) for k, v in plain.get("packages", {}).items()},
        )

    def to_plain(self) -> dict[str, Any]:
        """As the JSON of the flake spells it."""
        return {
            "system": self.system,
            "kernel": self.kernel,
            "kernelParams": list(self.kernel_params),
            "systemd": self.systemd,
            "initrd": self.initrd,
            "inhibitors": self.inhibitors,
            "units": dict(self.units),
            "packages": dict(self.packages),
        }

    @property
    def all_units(self) -> dict[str, str]:
        """With those every NixOS has; systemd's own follow its version."""
        base = {name: version or self.systemd for name, version in _BASE_UNITS.items()}
        return {**base, **self.units}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every store path of one system. ``parts`` are what the toplevel refers to."""

    configuration: Configuration
    toplevel: str
    drv: str
    kernel: str
    modules: str
    initrd: str
    systemd: str
    etc: str
    system_units: str
    sw: str
    units: Mapping[str, str]
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    """What the units start; its version is the unit's."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Everything in the closure but the toplevel itself."""
        own = (self.kernel, self.modules, self.initrd, self.systemd, self.etc, self.system_units, self.sw)
        return (*own, *self.units.values(), *self.packages, *self.programs)

    @property
    def kernel_image(self) -> str:
        """The kernel file's name on this architecture."""
        return "bzImage" if self.configuration.system.startswith("x86_64") else "Image"

    @property
    def disko(self) -> str:
        """The disko script's path."""
        return store_path("disko", self.configuration.host)

    @property
    def disko_drv(self) -> str:
        """The disko script's derivation."""
        return self.disko + ".drv"

    @property
    def closure_size(self) -> int:
        """Bytes of the whole closure."""
        return sum(nar_size(path) for path in (*self.parts, self.toplevel))


def recipe_for(configuration: Configuration) -> Recipe:
    """Compute every path. Equal configurations give equal paths; one change moves exactly what depends on it."""
    c = configuration
    kernel = store_path(f"linux-{c.kernel}", c.system)
    modules = store_path(f"linux-{c.kernel}-modules", c.system)
    initrd = store_path(f"initrd-linux-{c.kernel}", kernel, modules, c.initrd)
    systemd = store_path(f"systemd-{c.systemd}", c.system)
    programs = {name.rpartition(".")[0]: version for name, version in c.units.items() if version}
    units = {name: store_path(f"unit-{name}", version, c.system) for name, version in sorted(c.all_units.items())}
    system_units = store_path("system-units", *units.values())
    etc = store_path("etc", system_units, c.host)
    wanted = {**_BASE_PACKAGES, **c.packages}
    packages = tuple(store_path(f"{name}-{version}", c.system) for name, version in sorted(wanted.items()))
    sw = store_path("system-path", *packages)
    name = f"nixos-system-{c.host}-{RELEASE}"
    params = " ".join(c.kernel_params)
    toplevel = store_path(name, kernel, modules, initrd, systemd, etc, sw, params, c.inhibitors)
    return Recipe(
        configuration=c,
        toplevel=toplevel,
        drv=store_path(name + ".drv", toplevel),
        kernel=kernel,
        modules=modules,
        initrd=initrd,
        systemd=systemd,
        etc=etc,
        system_units=system_units,
        sw=sw,
        units=units,
        packages=packages,
        programs=tuple(store_path(f"{name}-{version}", c.system) for name, version in sorted(programs.items())),
    )


def unit_text(name: str, version: str) -> str:
    """A unit file."""
    stem = name.removesuffix(".service")
    return f"[Unit]\nDescription={stem}\n\n[Service]\nExecStart=/run/current-system/sw/bin/{stem} # {version}\n"


def derivation_text(recipe: Recipe) -> str:
    """What the lab keeps in a derivation's place: enough to build it later."""
    return json.dumps({"host": recipe.configuration.host, "configuration": recipe.configuration.to_plain()})

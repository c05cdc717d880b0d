"""The controller's Nix store: real directories and links under a root, as ``NIX_REMOTE=<root>`` lays them out.

Hosts read the same directories through their own set of valid paths; nothing here belongs to one host.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nixkube_deploy.lab.recipe import RELEASE, Configuration, Recipe, derivation_text, recipe_for, unit_text
from nixkube_deploy.lab.storepath import STORE, is_store_path, store_path


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link's target."""

    target: str


Entry = str | Link
"""A file's text or a link."""


@dataclass(slots=True)
class ControllerStore:
    """All paths that exist on the controller, and what is known about systems among them."""

    root: Path
    _recipes: dict[str, Recipe] = field(default_factory=dict)
    _closures: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.physical(STORE).mkdir(parents=True, exist_ok=True)
        self._meta.mkdir(parents=True, exist_ok=True)

    @property
    def _meta(self) -> Path:
        return self.root / "meta"

    def physical(self, path: str) -> Path:
        """Where a logical path really lies."""
        return Path(f"{self.root}{path}")

    def has(self, path: str) -> bool:
        """Whether a store path was made."""
        return is_store_path(path) and os.path.lexists(self.physical(path))

    # --- making --------------------------------------------------------------------------------------------------

    def instantiate(self, recipe: Recipe) -> None:
        """Write the derivations, as evaluation does."""
        for drv in (recipe.drv, recipe.disko_drv):
            target = self.physical(drv)
            if not target.exists():
                target.write_text(derivation_text(recipe))

    def derivation(self, drv: str) -> Recipe | None:
        """The recipe a derivation stands for."""
        target = self.physical(drv)
        if not drv.endswith(".drv") or not target.is_file():
            return None
        plain = json.loads(target.read_text())
        return recipe_for(Configuration.parse(plain["host"], plain["configuration"]))

    def realise(self, recipe: Recipe) -> bool:
        """Make a system; False when it was there."""
        if self.has(recipe.toplevel):
            return False
        self._parts(recipe)
        self._note(recipe.toplevel, recipe)
        self._tree(recipe.toplevel, _toplevel(recipe))
        self._recipes[recipe.toplevel] = recipe
        return True

    def realise_disko(self, recipe: Recipe) -> None:
        """Make the host's disko script."""
        target = self.physical(recipe.disko)
        if not target.exists():
            target.write_text(f"#!/bin/sh\n# partitions the disks of {recipe.configuration.host}\n")
            target.chmod(0o755)

    def realise_activatable(self, recipe: Recipe) -> str:
        """deploy-rs' wrapper of a system, which is what its profile points to."""
        path = store_path(f"activatable-nixos-system-{recipe.configuration.host}-{RELEASE}", recipe.toplevel)
        links: dict[str, Entry] = {
            name: Link(f"{recipe.toplevel}/{name}") for name in _toplevel(recipe) if "/" not in name
        }
        links["bin/switch-to-configuration"] = Link(f"{recipe.toplevel}/bin/switch-to-configuration")
        links |= {"deploy-rs-activate": "#!/bin/sh\n", "activate-rs": ""}
        self._note(path, recipe)
        self._tree(path, links)
        return path

    def _note(self, path: str, recipe: Recipe) -> None:
        note = {"host": recipe.configuration.host, "configuration": recipe.configuration.to_plain()}
        (self._meta / Path(path).name).write_text(json.dumps(note))

    def _parts(self, recipe: Recipe) -> None:
        c = recipe.configuration
        self._tree(recipe.kernel, {recipe.kernel_image: f"linux {c.kernel}\n", "System.map": ""})
        self._tree(recipe.modules, {f"lib/modules/{c.kernel}/modules.dep": ""})
        self._tree(recipe.initrd, {"initrd": f"initrd {c.initrd} for linux {c.kernel}\n"})
        self._tree(recipe.systemd, {"lib/systemd/systemd": c.systemd + "\n"})
        versions = c.all_units
        for name, path in recipe.units.items():
            self._tree(path, {name: unit_text(name, versions[name])})
        self._tree(recipe.system_units, {name: Link(f"{path}/{name}") for name, path in recipe.units.items()})
        self._tree(recipe.etc, {"etc/hostname": c.host + "\n", "etc/systemd/system": Link(recipe.system_units)})
        for path in (*recipe.packages, *recipe.programs):
            self._tree(path, {"bin/.keep": ""})
        self._tree(recipe.sw, {"bin/.keep": ""})

    def _tree(self, path: str, entries: Mapping[str, Entry]) -> None:
        """One store path. It appears at once, whole, as Nix's do."""
        target = self.physical(path)
        if os.path.lexists(target):
            return
        making = target.with_name(f".making-{target.name}")
        for name, entry in entries.items():
            place = making / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Link):
                if not place.is_symlink():
                    place.symlink_to(entry.target)
            else:
                place.write_text(entry)
        making.rename(target)

    # --- asking --------------------------------------------------------------------------------------------------

    def system(self, path: str) -> Recipe | None:
        """What a toplevel (or a wrapper of one) was made from; None when the path is no system."""
        if path not in self._recipes:
            note = self._meta / Path(path).name
            if not note.is_file():
                return None
            plain = json.loads(note.read_text())
            self._recipes[path] = recipe_for(Configuration.parse(plain["host"], plain["configuration"]))
        return self._recipes[path]

    def closure(self, path: str) -> frozenset[str]:
        """The path and everything it refers to."""
        if path not in self._closures:
            recipe = self.system(path)
            self._closures[path] = frozenset((path, recipe.toplevel, *recipe.parts)) if recipe else frozenset((path,))
        return self._closures[path]


def _toplevel(recipe: Recipe) -> dict[str, Entry]:
    """The directory NixOS calls the toplevel."""
    c = recipe.configuration
    entries: dict[str, Entry] = {
        "activate": "#!/bin/sh\n",
        "bin/switch-to-configuration": "#!/bin/sh\n",
        "etc": Link(f"{recipe.etc}/etc"),
        "init": "#!/bin/sh\n",
        "init-interface-version": "systemd 2",
        "initrd": Link(f"{recipe.initrd}/initrd"),
        "kernel": Link(f"{recipe.kernel}/{recipe.kernel_image}"),
        "kernel-modules": Link(recipe.modules),
        "kernel-params": " ".join(c.kernel_params),
        "nixos-version": "25.11.20251120.lab",
        "sw": Link(recipe.sw),
        "system": c.system,
        "systemd": Link(recipe.systemd),
    }
    if c.inhibitors:
        entries["switch-inhibitors"] = c.inhibitors
    return entries

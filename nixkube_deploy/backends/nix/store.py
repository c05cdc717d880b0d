"""The controller's store as a file system: what is built, and what distinguishes one system from another.

Read only, and without a Nix process. With ``NIX_REMOTE`` the store may lie under another root, where absolute links
mean paths under that root; they are followed by hand, because the kernel would follow them out of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import parse_qs

from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.names import StorePath

_MOST_LINKS: Final = 40
_MOST_DERIVATIONS: Final = 50_000
_INPUT: Final = re.compile(r'"(/nix/store/[^"\\]+\.drv)"')
_UNITS: Final = "etc/systemd/system"
_DROP_INS: Final = ".d"
_DROP_IN: Final = "overrides.conf"
"""The only drop-in NixOS writes itself; see ``plan.difference``."""
_KUBELET_UNITS: Final = ("k3s.service", "rke2-server.service", "rke2-agent.service", "kubelet.service")
_KUBELET: Final = re.compile(
    r"^ExecStart=/nix/store/[0-9a-z]{32}-(?:k3s|rke2|kubernetes)-([0-9][^/\s]*)/bin/", re.MULTILINE
)
_LONGEST_FILE: Final = 1 << 20


def store_root(remote: str) -> Path:
    """The directory under which ``/nix/store`` lies for a value of ``NIX_REMOTE``."""
    if remote.startswith("/"):
        return Path(remote)
    scheme, _, query = remote.partition("?")
    roots = parse_qs(query).get("root", [])
    return Path(roots[0]) if scheme in {"local", "local://"} and roots else Path("/")


class StoreFiles:
    """The store under ``root``. All paths taken and given are logical ones, ``/nix/store/...``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[PurePosixPath, PurePosixPath] = {}
        """Folders found so far; a store path never changes, so this stays true."""

    def physical(self, path: PurePosixPath | str) -> Path:
        """Where a logical path without links really lies."""
        return self._root / PurePosixPath(path).relative_to("/")

    def holds(self, path: StorePath | str) -> bool:
        """Whether the path is there."""
        physical = self.physical(path)
        return physical.exists() or physical.is_symlink()

    def resolve(self, path: str) -> str:
        """As ``readlink -f`` says inside the root; empty when a part is missing or links go in circles."""
        resolved = self._resolve(PurePosixPath(path), _MOST_LINKS)
        return str(resolved) if resolved is not None else ""

    def _resolve(self, path: PurePosixPath, links: int) -> PurePosixPath | None:
        """``..`` stops at the root, as it does in a chroot."""
        if path == PurePosixPath("/"):
            return path
        if path.name == "..":
            folder = self._folder(path.parent, links)
            return folder.parent if folder is not None else None
        folder = self._folder(path.parent, links)
        if folder is None:
            return None
        here = folder / path.name
        physical = self.physical(here)
        if physical.is_symlink():
            return self._resolve(folder / physical.readlink(), links - 1) if links else None
        return here if physical.exists() else None

    def _folder(self, path: PurePosixPath, links: int) -> PurePosixPath | None:
        if path in self._folders:
            return self._folders[path]
        folder = self._resolve(path, links)
        if folder is not None:
            self._folders[path] = folder
        return folder

    def read(self, path: str) -> str:
        """A file's text without blank edges; empty when there is none."""
        resolved = self.resolve(path)
        if not resolved:
            return ""
        try:
            with self.physical(resolved).open(encoding="utf-8", errors="replace") as file:
                return file.read(_LONGEST_FILE).strip()
        except OSError:
            return ""

    def contents(self, system: StorePath) -> SystemContents:
        """What classification compares; every unit the system has."""
        kernel, initrd = self.resolve(f"{system}/kernel"), self.resolve(f"{system}/initrd")
        units = self._units(system)
        return SystemContents(
            path=system,
            kernel=kernel,
            initrd=initrd,
            kernel_modules=self.resolve(f"{system}/kernel-modules"),
            kernel_params=self.read(f"{system}/kernel-params"),
            systemd=self.resolve(f"{system}/systemd"),
            inhibitors=self.read(f"{system}/switch-inhibitors"),
            init_interface=self.read(f"{system}/init-interface-version"),
            dbus=self.resolve(f"{system}/{_UNITS}/dbus.service"),
            units=units,
            kubernetes=self._kubernetes(units),
            boot_sizes={path: self._size(path) for path in (kernel, initrd) if path},
        )

    def _kubernetes(self, units: Mapping[str, str]) -> str:
        """The version in the store path its kubelet is started from; empty where a wrapper hides it."""
        found = (_KUBELET.search(self.read(units[unit])) for unit in _KUBELET_UNITS if unit in units)
        return next((match[1] for match in found if match), "")

    def _size(self, path: str) -> int:
        try:
            return self.physical(path).stat().st_size
        except OSError:
            return 0

    def specialisations(self, system: StorePath) -> Mapping[str, StorePath]:
        """A system's specialisations by name, each as the system it is."""
        folder = self.resolve(f"{system}/specialisation")
        try:
            names = sorted(entry.name for entry in self.physical(folder).iterdir()) if folder else []
        except OSError:
            return {}
        found = {name: self.resolve(f"{folder}/{name}") for name in names}
        return {name: StorePath(path) for name, path in found.items() if path}

    def _units(self, system: StorePath) -> Mapping[str, str]:
        folder = self.resolve(f"{system}/{_UNITS}")
        if not folder:
            return {}
        try:
            entries = sorted(entry.name for entry in self.physical(folder).iterdir())
        except OSError:
            return {}
        names = [f"{name}/{_DROP_IN}" if name.endswith(_DROP_INS) else name for name in entries]
        found = {name: self.resolve(f"{folder}/{name}") for name in names}
        return {name: path for name, path in found.items() if path and self.physical(path).is_file()}

    def needs(self, drv: str, wanted: frozenset[str]) -> frozenset[str]:
        """Which of the ``wanted`` derivations ``drv`` is built from, itself included. Reads the derivations' files."""
        seen, todo, found = {drv}, [drv], {drv} & wanted
        while todo and found != wanted and len(seen) < _MOST_DERIVATIONS:
            inputs = set(_INPUT.findall(self.read(todo.pop()))) - seen
            found |= inputs & wanted
            seen |= inputs
            todo += inputs
        return frozenset(found)

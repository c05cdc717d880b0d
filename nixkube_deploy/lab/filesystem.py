"""A machine's file tree as its programs see it: computed from the machine's state, never stored twice.

Store paths are read from the controller's store, but only those in the closures the machine holds.
"""

import errno
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from nixkube_deploy.lab.machine import Machine, Personality
from nixkube_deploy.lab.shell import Writer
from nixkube_deploy.lab.store import ControllerStore, Link
from nixkube_deploy.lab.storepath import STORE, top_of

PROFILE = "/nix/var/nix/profiles/system"
HOLDER = "/run/nixkube-deploy.holder"
LOADER_CONF = "/boot/loader/loader.conf"
_DEFAULT_ENTRY = re.compile(r"^default\s+nixos-generation-(\d+)\.conf\s*$", re.MULTILINE)
_EFI = "/sys/firmware/efi/efivars/Loader{}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_TMP = "/tmp"  # noqa: S108 (on the simulated machine)
_FOLDERS = (
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/mnt", "/nix", "/nix/store", "/nix/var/nix/profiles", "/proc",
    "/root", "/run", "/run/lock", "/run/systemd/system", "/sys", _TMP, "/usr", "/var", "/var/lib", "/var/log",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/stdin")
_ROOT_ONLY = ("/sys/class/dmi/id/product_serial", "/etc/rancher/", "/etc/kubernetes/", "/root/", "/etc/shadow")
_ROOT_ONLY_FOLDERS = ("/var/lib/rancher/k3s/server", "/var/lib/rancher/rke2/server")
_MAX_LINKS = 40

Node = str | Link | tuple[str, ...]
"""A file's text, a link, or a folder's entries."""


def no_such_file(path: str) -> OSError:
    """ENOENT with the path that was asked for."""
    return FileNotFoundError(errno.ENOENT, "No such file or directory", path)


@dataclass(slots=True)
class FileSystem:
    """One machine's tree for one user. All errors are OSErrors with the words of libc."""

    machine: Machine
    store: ControllerStore
    provided: Callable[[], dict[str, str]]
    """Files other parts of the world answer for (an admin kubeconfig)."""
    uid: int = 0
    cwd: str = "/root"
    _computed: dict[str, Node] = field(default_factory=dict)

    # --- what programs ask ---------------------------------------------------------------------------------------

    def read(self, path: str) -> str:
        """A file's text."""
        real = self.resolve(path)
        node = self._lookup(real)
        if node is None:
            raise no_such_file(path)
        if isinstance(node, tuple):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
        if self.uid and real.startswith(_ROOT_ONLY):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        assert isinstance(node, str)
        return node

    def exists(self, path: str) -> bool:
        """Whether something is there, links followed."""
        return self.stat(path) is not None

    def is_folder(self, path: str) -> bool:
        """Whether it is a directory, links followed."""
        return isinstance(self.stat(path), tuple)

    def is_link(self, path: str) -> bool:
        """Whether the last component is a symbolic link."""
        try:
            return isinstance(self._lookup(self.resolve(path, follow_last=False)), Link)
        except OSError:
            return False

    def stat(self, path: str) -> Node | None:
        """The node behind a path; None when there is none, or when it lies in a folder that is closed to the user."""
        try:
            real = self.resolve(path)
        except OSError:
            return None
        return None if any(self.is_closed(folder) for folder in _closed_above(real)) else self._lookup(real)

    def is_closed(self, path: str) -> bool:
        """Whether the user may not look into this folder."""
        return self.uid != 0 and posixpath.normpath(path) in _ROOT_ONLY_FOLDERS

    def entries(self, path: str) -> tuple[str, ...]:
        """A directory's entries, sorted; a file lists as itself."""
        node = self._lookup(self.resolve(path))
        if node is None:
            raise no_such_file(path)
        return node if isinstance(node, tuple) else (path,)

    def readlink(self, path: str) -> str | None:
        """One link's target; None when it is no link."""
        node = self._lookup(self.resolve(path, follow_last=False))
        return node.target if isinstance(node, Link) else None

    def canonical(self, path: str) -> str:
        """``readlink -f``: every component but the last must exist."""
        return self.resolve(path)

    def open_write(self, path: str, *, append: bool) -> Writer:
        """A writer; the file exists from now on."""
        real = self.resolve(path)
        self._check_allowed(real, path)
        self._check_parent(real, path)
        if isinstance(self._lookup(real), tuple):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
        if real == LOADER_CONF and self.machine.loader.kind == "systemd-boot":
            return self._loader_conf()
        files = self.machine.files
        files[real] = files.get(real, "") if append else ""

        def write(text: str) -> None:
            files[real] += text

        return write

    def _loader_conf(self) -> Writer:
        """The file is the machine's boot loader: its default entry is what the text says."""
        said: list[str] = []

        def write(text: str) -> None:
            said.append(text)
            found = _DEFAULT_ENTRY.search("".join(said))
            self.machine.loader.default = int(found[1]) if found else None

        return write

    def open_read(self, path: str) -> str:
        """For redirections."""
        return self.read(path)

    def make_folder(self, path: str, *, parents: bool) -> None:
        """``mkdir``."""
        real = posixpath.normpath(posixpath.join(self.cwd, path))
        if self.is_folder(real):
            if parents:
                return
            raise FileExistsError(errno.EEXIST, "File exists", path)
        self._check_allowed(real, path)
        if not parents:
            self._check_parent(real, path)
        self.machine.folders.add(real)

    def remove(self, path: str, *, recursive: bool) -> None:
        """``rm``."""
        real = self.resolve(path, follow_last=False)
        node = self._lookup(real)
        if node is None:
            raise no_such_file(path)
        self._check_allowed(real, path)
        if isinstance(node, tuple):
            if not recursive:
                raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
            machine = self.machine
            machine.files = {k: v for k, v in machine.files.items() if not k.startswith(real + "/")}
            machine.folders = {each for each in machine.folders if each != real and not each.startswith(real + "/")}
            return
        if real not in self.machine.files:
            raise PermissionError(errno.EROFS, "Read-only file system", path)
        del self.machine.files[real]

    # --- resolving -----------------------------------------------------------------------------------------------

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """The path without links. A missing last component is fine, a missing one before it is not."""
        pending = [part for part in PurePosixPath(posixpath.join(self.cwd, path)).parts[1:] if part != "."]
        pending.reverse()
        done = ""
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            candidate = f"{done}/{part}"
            node = self._lookup(candidate) if pending or follow_last else None
            if isinstance(node, Link):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, "Too many levels of symbolic links", path)
                parts = PurePosixPath(node.target).parts
                if node.target.startswith("/"):
                    done, parts = "", parts[1:]
                pending.extend(reversed(parts))
                continue
            if node is None and pending:
                raise no_such_file(path)
            if isinstance(node, str) and pending:
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory", path)
            done = candidate
        return done or "/"

    def _check_allowed(self, real: str, asked: str) -> None:
        if self.uid and not real.startswith(("/tmp/", "/home/", "/dev/shm/")):  # noqa: S108 (on the simulated machine)
            raise PermissionError(errno.EACCES, "Permission denied", asked)
        if real.startswith(("/nix/store", "/proc", "/sys")):
            raise OSError(errno.EROFS, "Read-only file system", asked)

    def _check_parent(self, real: str, asked: str) -> None:
        if not self.is_folder(posixpath.dirname(real)):
            raise no_such_file(asked)

    # --- the tree ------------------------------------------------------------------------------------------------

    def _lookup(self, path: str) -> Node | None:
        if path in _DEVICES:
            return ""
        if path.startswith(STORE + "/"):
            return self._stored(path)
        node = self._files().get(path)
        if node is not None:
            return node
        if path in _FOLDERS or path in self.machine.folders or self._has_below(path):
            return tuple(sorted(self._children(path)))
        return None

    def _stored(self, path: str) -> Node | None:
        top = top_of(path)
        if top is None or not self.holds(top):
            return None
        physical = self.store.physical(path)
        if physical.is_symlink():
            return Link(str(physical.readlink()))
        if physical.is_dir():
            return tuple(sorted(each.name for each in physical.iterdir() if each.name != ".keep"))
        return physical.read_text() if physical.is_file() else None

    def holds(self, path: str) -> bool:
        """Whether a store path is valid on this machine."""
        return any(path in self.store.closure(root) for root in self.machine.roots)

    def _has_below(self, path: str) -> bool:
        prefix = path.rstrip("/") + "/"
        return any(name.startswith(prefix) for name in self._names())

    def _children(self, path: str) -> set[str]:
        prefix = path.rstrip("/") + "/"
        if path == STORE:
            return {name.rpartition("/")[2] for root in self.machine.roots for name in self.store.closure(root)}
        below = (name[len(prefix) :] for name in self._names() if name.startswith(prefix))
        return {name.partition("/")[0] for name in below if name}

    def _names(self) -> Iterator[str]:
        yield from self._files()
        yield from self.machine.folders
        yield from _FOLDERS
        yield from _DEVICES

    def _files(self) -> dict[str, Node]:
        """Everything outside the store, made once per look: a look is short and the machine may change after it."""
        if not self._computed:
            machine = self.machine
            self._computed = {**_kernel_files(machine), **_etc_files(machine), **self.provided()}
            if machine.personality is Personality.NIXOS:
                self._computed.update(_nixos_links(machine))
                self._computed.update(_boot_files(machine))
        return {**self._computed, **self.machine.files}


def _closed_above(path: str) -> Iterator[str]:
    return (folder for folder in _ROOT_ONLY_FOLDERS if path.startswith(f"{folder}/"))


def _kernel_files(machine: Machine) -> dict[str, Node]:
    return {
        "/proc/sys/kernel/random/boot_id": machine.boot_id + "\n",
        "/proc/sys/kernel/hostname": machine.hostname + "\n",
        "/proc/sys/kernel/osrelease": machine.kernel_release + "\n",
        "/proc/version": f"Linux version {machine.kernel_release}\n",
        "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
        "/proc/mounts": "/dev/root / ext4 rw 0 0\n"
        + ("/dev/disk/by-partlabel/root /mnt ext4 rw 0 0\n" if machine.partitioned else ""),
        "/sys/class/dmi/id/product_serial": machine.serial + "\n",
        **dict.fromkeys(machine.disks, ""),
        **_installing(machine),
    }


def _installing(machine: Machine) -> dict[str, Node]:
    """The system on /mnt, as soon as nixos-install has made its profile."""
    if machine.prepared is None:
        return {}
    return {f"/mnt{PROFILE}": Link("system-1-link"), f"/mnt{PROFILE}-1-link": Link(machine.prepared)}


def _etc_files(machine: Machine) -> dict[str, Node]:
    match machine.personality:
        case Personality.NIXOS:
            release = 'ID=nixos\nNAME=NixOS\nPRETTY_NAME="NixOS 25.11 (Xantusia)"\nVERSION_ID="25.11"\n'
        case Personality.INSTALLER:
            release = 'ID=nixos\nNAME=NixOS\nPRETTY_NAME="NixOS 25.11 (Xantusia)"\nVARIANT_ID=installer\n'
        case _:
            release = (
                'ID=debian\nNAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\n'
            )
    return {
        "/etc/os-release": release,
        "/etc/machine-id": machine.machine_id + "\n",
        "/etc/hostname": machine.hostname + "\n",
    }


def _nixos_links(machine: Machine) -> dict[str, Node]:
    links: dict[str, Node] = {"/etc/NIXOS": ""}
    if machine.current:
        links["/run/current-system"] = Link(machine.current)
        links["/etc/static"] = Link(f"{machine.current}/etc")
        links["/etc/systemd/system"] = Link("/etc/static/systemd/system")
    if machine.booted:
        links["/run/booted-system"] = Link(machine.booted)
    if machine.profile is not None:
        links[PROFILE] = Link(f"system-{machine.profile}-link")
    for number, generation in machine.generations.items():
        links[f"{PROFILE}-{number}-link"] = Link(generation.system)
    return links


def _boot_files(machine: Machine) -> dict[str, Node]:
    loader = machine.loader
    match loader.kind:
        case "systemd-boot":
            files: dict[str, Node] = {
                f"/boot/loader/entries/nixos-generation-{number}.conf": _entry_text(machine, number)
                for number in loader.entries
            }
            default = f"default nixos-generation-{loader.default}.conf\n" if loader.default is not None else ""
            variables = {"EntrySelected": True, "EntryOneShot": loader.one_shot, "EntryDefault": loader.pinned}
            files |= {_EFI.format(name): "" for name, value in variables.items() if value is not None}
            return {**files, LOADER_CONF: f"timeout 5\n{default}console-mode keep\n"}
        case "grub":
            return {"/boot/grub/grub.cfg": f"set default={loader.default}\n"}
        case _:
            return {"/boot/extlinux/extlinux.conf": f"DEFAULT nixos-{loader.default}\n"}


def _entry_text(machine: Machine, number: int) -> str:
    generation = machine.generations.get(number)
    system = generation.system if generation else "?"
    return f"title NixOS\nsort-key nixos\nversion Generation {number}\noptions init={system}/init\n"

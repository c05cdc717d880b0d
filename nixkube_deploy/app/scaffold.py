"""Writes a new fleet's files: an inventory and the flake its hosts are built from.

It never writes over a file, runs nothing, and contacts nobody; the flake's modules are copied as they are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nixkube_deploy.app.scaffoldtext import Machine, Wanted, cluster_nix, host_nix, inventory_yaml
from nixkube_deploy.inventory.load import load_fleet
from nixkube_deploy.model.error import UsageError

TEMPLATE = Path(__file__).parent / "template"
INVENTORY = "inventory.yaml"
_OURS = {"cluster.nix", INVENTORY}
_TEXT = (".nix", ".md")
_KEY = re.compile(r"(ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+( .*)?")
_QUORUM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of the folder."""

    folder: Path
    new: tuple[str, ...]
    same: tuple[str, ...]
    kept: tuple[str, ...]
    """Files that were there and say something else; they stay as they are."""
    notes: tuple[str, ...]


def scaffold(folder: Path, wanted: Wanted, *, force: bool = False) -> Written:
    """Write the files of ``wanted`` into ``folder``.

    Raises:
        UsageError: the folder holds something and ``force`` is not set, or what is wanted cannot be.
    """
    _refuse_unfit(wanted)
    files = dict(_files(wanted))
    _read_back(folder, files[INVENTORY])
    _refuse_full(folder, force=force)
    new: list[str] = []
    same: list[str] = []
    kept: list[str] = []
    for name, text in files.items():
        try:
            became = new if _write(folder / name, text) else same if _says(folder / name, text) else kept
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UsageError(f"cannot write {folder / name}: {why}", hint=_so_far(new)) from None
        became.append(name)
    notes = tuple(_notes(wanted))
    return Written(folder=folder, new=tuple(new), same=tuple(same), kept=tuple(kept), notes=notes)


def public_keys(given: str | None, home: Path) -> tuple[str, ...]:
    """The SSH public keys to put into the flake: a key, a file of keys, or else the user's own.

    Raises:
        UsageError: what was given is neither, or is a private key.
    """
    if given is None:
        found = (home / ".ssh" / name for name in ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"))
        return next((keys for file in found if (keys := _keys_in(file))), ())
    if _KEY.fullmatch(given):
        return (given,)
    file = Path(given).expanduser()
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"--ssh-key {given}: {why}", hint="give a public key, or the file it is in") from None
    if "PRIVATE KEY" in text:
        raise UsageError(f"--ssh-key {given}: this is a private key", hint=f"--ssh-key {given}.pub")
    if keys := _keys_in(file):
        return keys
    raise UsageError(f"--ssh-key {given}: there is no SSH public key in it", hint="ssh-keygen -t ed25519 makes a pair")


def _keys_in(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line.strip() for line in lines if _KEY.fullmatch(line.strip()))


def _files(wanted: Wanted) -> Iterator[tuple[str, str]]:
    for path in sorted(TEMPLATE.rglob("*")):
        name = path.relative_to(TEMPLATE).as_posix()
        is_ours = name in _OURS or name.startswith("hosts/")
        if path.is_file() and not is_ours and (path.suffix in _TEXT or path.name == ".gitignore"):
            yield name, path.read_text(encoding="utf-8")
    yield INVENTORY, inventory_yaml(wanted)
    yield "cluster.nix", cluster_nix(wanted)
    for machine in wanted.machines:
        yield f"hosts/{machine.name}.nix", host_nix(machine)


def _refuse_unfit(wanted: Wanted) -> None:
    planes = [machine for machine in wanted.machines if machine.is_control_plane]
    if not planes:
        raise UsageError("a cluster needs a control plane", hint="--control-plane cp1=10.0.0.11")
    if wanted.distribution == "kubernetes" and len(planes) > 1:
        raise UsageError(
            f"services.kubernetes makes certificates for one control-plane host, not for {len(planes)}",
            hint="--distribution k3s, or one --control-plane",
        )


def _read_back(folder: Path, text: str) -> None:
    """What would be written is read as ``deploy check`` would read it: names and addresses are judged there."""
    try:
        load_fleet(folder / INVENTORY, text=text)
    except UsageError as error:
        raise UsageError(f"the inventory would be wrong: {error.message}", hint=error.hint) from None


def _refuse_full(folder: Path, *, force: bool) -> None:
    """A repository without files is as good as an empty folder."""
    try:
        there = sorted(each.name for each in folder.iterdir() if each.name != ".git")
    except FileNotFoundError:
        return
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot make a fleet in {folder}: {why}", hint="deploy init DIR names a folder") from None
    if there and not force:
        some = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")  # noqa: PLR2004 (as many as are named)
        raise UsageError(
            f"{folder} is not empty: it has {some}",
            hint="another DIR, or --force: only files that are not there yet are written",
        )


def _write(target: Path, text: str) -> bool:
    """Whether it was written: never over anything, and never through a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _says(target: Path, text: str) -> bool:
    try:
        return target.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _so_far(new: list[str]) -> str:
    return f"written before it: {', '.join(new)}; run it again with --force to go on" if new else ""


def _notes(wanted: Wanted) -> Iterator[str]:
    planes = sum(machine.is_control_plane for machine in wanted.machines)
    if planes > 1 and planes % 2 == 0:
        better = max(planes + 1, _QUORUM)
        yield f"{planes} control-plane hosts survive the loss of no more than {planes - 1} do: make it {better}"
    if not wanted.keys:
        yield "no SSH public key was found: put yours into cluster.nix; until then the flake refuses to evaluate"
    if wanted.placeholders:
        yield "the addresses are placeholders: put your machines' own into inventory.yaml, cluster.nix and hosts/"


__all__ = ["Machine", "Wanted", "Written", "public_keys", "scaffold"]

"""Systems laid out as NixOS lays them out, read from a store and classified. ``UPDATE_GOLDEN=1`` rewrites the answers.

The golden file is read by people: for each difference between two systems, the class and what is said of it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nixkube_deploy.backends.nix.store import StoreFiles
from nixkube_deploy.model.change import Change, ChangeClass
from nixkube_deploy.model.closure import Closure
from nixkube_deploy.model.facts import SystemContents
from nixkube_deploy.model.fleet import Distribution
from nixkube_deploy.model.names import HostName, StorePath
from nixkube_deploy.model.strategy import HostPolicy
from nixkube_deploy.plan.classify import classify
from tests.builders import a_host, facts_of, store_path

GOLDEN = Path(__file__).parents[2] / "golden" / "plan" / "closure-classes.txt"
K3S = """\
[Unit]
Description=k3s service
X-Restart-Triggers={trigger}

[Service]
EnvironmentFile=/etc/k3s.env
ExecStart={program}/bin/k3s server
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One NixOS system: what of it can differ."""

    kernel: str = "6.12.7"
    initrd: str = "1"
    modules: str = "6.12.7"
    params: str = "loglevel=4 lsm=landlock,yama,bpf"
    systemd: str = "257.1"
    interface: str = "systemd 2"
    inhibitors: dict[str, str] | None = field(default_factory=lambda: {"dbus-implementation": "dbus"})
    dbus: str = "dbus.service"
    units: dict[str, str] = field(
        default_factory=lambda: {
            "k3s.service": K3S.format(program=store_path("k3s-1.31.4"), trigger=store_path("etc-k3s.env", "1")),
            "k3s.timer": "[Timer]\nOnCalendar=daily\n",
            "k3s.socket": "[Socket]\nListenStream=6444\n",
            "getty@.service": "[Service]\nExecStart=agetty\n",
            "nginx.service": "[Service]\nExecStart=nginx\n",
        }
    )
    drop_ins: dict[str, str] = field(default_factory=dict)
    """Unit to the text of its ``overrides.conf``."""
    motd: str = ""


def put(root: Path, path: str, text: str) -> str:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(text)
    return path


def link(root: Path, path: str, target: str) -> str:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_symlink():
        file.symlink_to(target)
    return path


def plant(root: Path, tree: Tree) -> StorePath:
    """Write a system into the store under ``root``, as nixpkgs' builders do; equal parts get equal paths."""
    system = store_path("nixos-system-w1-25.11", repr(tree))
    kernel = put(root, f"{store_path(f'linux-{tree.kernel}')}/bzImage", "k" * 100)
    initrd = put(root, f"{store_path(f'initrd-linux-{tree.kernel}', tree.initrd)}/initrd", "i" * 50)
    modules = store_path(f"linux-{tree.modules}-modules")
    put(root, f"{modules}/lib/modules/modules.dep", "")
    systemd = store_path(f"systemd-{tree.systemd}")
    put(root, f"{systemd}/lib/systemd/systemd", "")
    for name, target in (("kernel", kernel), ("initrd", initrd), ("kernel-modules", modules), ("systemd", systemd)):
        link(root, f"{system}/{name}", target)
    put(root, f"{system}/kernel-params", tree.params)
    put(root, f"{system}/init-interface-version", tree.interface)
    if tree.inhibitors is not None:
        text = json.dumps(tree.inhibitors)
        link(root, f"{system}/switch-inhibitors", put(root, store_path("switch-inhibitors", text), text))
    etc = store_path("etc", repr(tree.units) + repr(tree.drop_ins) + tree.dbus + tree.motd)
    link(root, f"{system}/etc", f"{etc}/etc")
    link(root, f"{etc}/etc/systemd/system", plant_units(root, tree))
    put(root, f"{etc}/etc/motd", tree.motd)
    return system


def plant_units(root: Path, tree: Tree) -> str:
    """``system-units``: links to one store path a unit, aliases that point at their neighbours, folders of drop-ins."""
    folder = store_path("system-units", repr(tree.units) + repr(tree.drop_ins) + tree.dbus)
    units = {**tree.units, tree.dbus: f"[Service]\nExecStart={tree.dbus}\n"}
    for name, text in units.items():
        link(root, f"{folder}/{name}", put(root, f"{store_path(f'unit-{name}', text)}/{name}", text))
    if tree.dbus != "dbus.service":
        link(root, f"{folder}/dbus.service", tree.dbus)
    for name, text in tree.drop_ins.items():
        unit = put(root, f"{store_path(f'unit-{name}', text)}/{name}", text)
        link(root, f"{folder}/{name}.d/overrides.conf", unit)
    return folder


def as_a_host_says(contents: SystemContents) -> SystemContents:
    """A probe asks for the node units only, and not for sizes."""
    asked = {f"{unit}{end}" for unit in Distribution.K3S.node_units for end in ("", ".d/overrides.conf")}
    units = {name: path for name, path in contents.units.items() if name in asked}
    return replace(contents, units=units, boot_sizes={})


def change_between(root: Path, old: Tree, new: Tree) -> Change:
    files = StoreFiles(root)
    running = as_a_host_says(files.contents(plant(root, old)))
    facts = replace(facts_of(a_host("w1")), current=running, booted=running, profile=running.path)
    wanted = Closure(host=HostName("w1"), drv="", contents=files.contents(plant(root, new)), system="x86_64-linux")
    return classify(facts, wanted, Distribution.K3S, HostPolicy())


def unit(name: str, text: str | None) -> Callable[[Tree], Tree]:
    def change(tree: Tree) -> Tree:
        units = {**tree.units, name: text or ""}
        return replace(tree, units={key: value for key, value in units.items() if value})

    return change


def field_of(**fields: object) -> Callable[[Tree], Tree]:
    return lambda tree: replace(tree, **fields)  # type: ignore[arg-type]


def drop_in(**texts: str) -> Callable[[Tree], Tree]:
    return lambda tree: replace(tree, drop_ins={f"{name}.service": text for name, text in texts.items()})


SAME_PROGRAM = store_path("k3s-1.31.4")
SCENES: dict[str, tuple[ChangeClass, Callable[[Tree], Tree]]] = {
    "nothing": (ChangeClass.UNCHANGED, lambda tree: tree),
    "a file under /etc": (ChangeClass.LIVE, field_of(motd="hello")),
    "another service": (ChangeClass.LIVE, unit("nginx.service", "[Service]\nExecStart=nginx -v\n")),
    "another service is gone": (ChangeClass.LIVE, unit("nginx.service", None)),
    "another service's drop-in": (ChangeClass.LIVE, drop_in(nginx="[Service]\nNice=5\n")),
    "a template": (ChangeClass.LIVE, unit("getty@.service", "[Service]\nExecStart=mingetty\n")),
    "a timer of the node's service": (ChangeClass.LIVE, unit("k3s.timer", "[Timer]\nOnCalendar=weekly\n")),
    "a socket of the node's service": (ChangeClass.LIVE, unit("k3s.socket", "[Socket]\nListenStream=6445\n")),
    "the node's program, by its store path alone": (
        ChangeClass.NODE_RESTART,
        unit("k3s.service", K3S.format(program=store_path("k3s-1.31.4", "2"), trigger=store_path("etc-k3s.env", "1"))),
    ),
    "a restart trigger of the node's service": (
        ChangeClass.NODE_RESTART,
        unit("k3s.service", K3S.format(program=SAME_PROGRAM, trigger=store_path("etc-k3s.env", "2"))),
    ),
    "the node's service is gone": (ChangeClass.NODE_RESTART, unit("k3s.service", None)),
    "a drop-in of the node's service": (ChangeClass.NODE_RESTART, drop_in(k3s="[Service]\nLimitNOFILE=1\n")),
    "the kernel": (ChangeClass.REBOOT, field_of(kernel="6.12.8", modules="6.12.8")),
    "the initrd": (ChangeClass.REBOOT, field_of(initrd="2")),
    "a module from outside the kernel": (ChangeClass.REBOOT, field_of(modules="6.12.7-zfs")),
    "the kernel's parameters": (ChangeClass.REBOOT, field_of(params="loglevel=7 lsm=landlock,yama,bpf")),
    "systemd": (ChangeClass.REBOOT, field_of(systemd="257.2")),
    "the init interface": (ChangeClass.REBOOT, field_of(interface="systemd 3")),
    "an inhibitor": (ChangeClass.REBOOT, field_of(inhibitors={"dbus-implementation": "broker"})),
    "an inhibitor that only the new system knows": (
        ChangeClass.LIVE,
        field_of(inhibitors={"dbus-implementation": "dbus", "fstab": "x"}),
    ),
    "inhibitors that only the old system knows": (ChangeClass.LIVE, field_of(inhibitors=None)),
    "the implementation of D-Bus": (ChangeClass.REBOOT, field_of(dbus="dbus-broker.service")),
    "everything": (
        ChangeClass.REBOOT,
        lambda tree: unit("k3s.service", "[Service]\n")(
            replace(tree, kernel="6.13.1", modules="6.13.1", params="quiet", systemd="258", interface="systemd 3")
        ),
    ),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_difference_has_the_class_it_should(tmp_path, scene):
    kind, change = SCENES[scene]
    assert change_between(tmp_path, Tree(), change(Tree())).kind is kind


def test_the_reasons_read_as_they_should(tmp_path):
    text = ""
    for scene, (_, change) in SCENES.items():
        made = change_between(tmp_path, Tree(), change(Tree()))
        text += "".join(f"{line}\n" for line in (f"{scene}: {made.kind}", *(f"    {r}" for r in made.reasons), ""))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_units_that_differ_only_in_the_path_of_a_shared_folder_are_the_same(tmp_path):
    """``system-units`` moves with every unit; what counts is the unit itself."""
    files = StoreFiles(tmp_path)
    old = files.contents(plant(tmp_path, Tree()))
    new = files.contents(plant(tmp_path, unit("nginx.service", None)(Tree())))
    assert old.units["k3s.service"] == new.units["k3s.service"]
    assert "nginx.service" not in new.units


def test_drop_ins_aliases_and_sizes_are_read_from_the_store(tmp_path):
    tree = drop_in(k3s="[Service]\nNice=5\n")(replace(Tree(), dbus="dbus-broker.service"))
    contents = StoreFiles(tmp_path).contents(plant(tmp_path, tree))
    assert contents.units["k3s.service.d/overrides.conf"].endswith("-unit-k3s.service/k3s.service")
    assert contents.dbus.endswith("/dbus-broker.service")
    assert contents.init_interface == "systemd 2"
    assert contents.boot_sizes == {contents.kernel: 100, contents.initrd: 50}

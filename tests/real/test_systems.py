"""The systems of ``flakes/lab`` on real hosts: how they are laid out, and that their switch-to-configuration does as
NixOS's: verbs, order, texts, lock and exit codes. The product has no part in it.
"""

import json
import re
from dataclasses import dataclass

import pytest

from tests.real.bed import needs
from tests.real.bed.fleet import HostOptions, RealFleet, real_fleet
from tests.real.bed.host import RealHost, wait_until

PROFILE = "/nix/var/nix/profiles/system"
MARKS = {"web.service": "1000001", "other.service": "1000002"}
"""What the programs of these units are told from each other by."""


@dataclass
class Bench:
    """One host, and systems made for it."""

    fleet: RealFleet

    @property
    def host(self) -> RealHost:
        return self.fleet.hosts["n1"]

    def system(self, **settings: object) -> str:
        """Build a system and bring it to the host."""
        (self.fleet.flake / "hosts" / "n1.json").write_text(json.dumps({"role": "worker"}))
        self.fleet.configure("n1", **settings)
        attribute = f"{self.fleet.flake}#nixosConfigurations.n1.config.system.build.toplevel"
        built = self.fleet.controller("nix", "build", "--json", "--no-link", attribute).stdout
        path = str(json.loads(built)[0]["outputs"]["out"])
        options = {"NIX_SSHOPTS": " ".join(self.fleet.ssh_options)}
        self.fleet.controller("nix", "copy", "--to", f"ssh://root@{self.host.address}", path, env=options)
        return path

    def run(self, system: str, verb: str, before: str = "") -> tuple[int, str]:
        """Exit code and output of its program."""
        said = self.host.run(f"{before} {system}/bin/switch-to-configuration {verb} 2>&1; echo code $?", check=False)
        output, _, code = said.rpartition("code ")
        return int(code), output.strip()

    def set_profile(self, system: str) -> None:
        self.host.run(f"nix-env -p {PROFILE} --set {system}")

    @property
    def boots(self) -> str:
        """The system that the boot loader would start."""
        entry = self.host.run("sed -n 's/^default //p' /boot/loader/loader.conf")
        return self.host.run(f"sed -n 's/^options init=\\(.*\\).init$/\\1/p' /boot/loader/entries/{entry}")

    def pid(self, unit: str) -> str:
        return self.host.run(f"pgrep -f '[s]leep {MARKS[unit]}'", check=False)

    def services(self) -> dict[str, dict[str, str]]:
        return {unit: {"ExecStart": f"/bin/sleep {mark}"} for unit, mark in MARKS.items()}


@pytest.fixture(
    scope="module", params=[pytest.param(1, marks=pytest.mark.long, id="tier 1"), pytest.param(2, id="tier 2")]
)
def bench(request, tmp_path_factory):
    needs.require(request.param)
    options = HostOptions(boot="256k")
    with real_fleet(tmp_path_factory.mktemp("bed"), tier=request.param, hosts=1, options=options) as fleet:
        fleet.configure(units=None, packages={"curl": "8.16.0"})
        yield Bench(fleet)


@pytest.fixture(autouse=True)
def clean(bench):
    """Every test begins on the first system, and on the first generation."""
    first = bench.host.run(f"readlink -f {PROFILE}-1-link")
    yield
    switch = f"{first}/bin/switch-to-configuration switch"
    bench.host.run(f"nix-env -p {PROFILE} --switch-generation 1; NIXOS_NO_CHECK=1 {switch}", check=False)
    bench.host.run(f"[ $(readlink -f /run/current-system) = {first} ] || {first}/activate; systemctl reset-failed")


def test_a_system_is_laid_out_as_nixos_lays_it_out(bench):
    system = bench.system(
        packages={"htop": "3.4.1"}, sizes={"htop": 100_000}, files={"motd": "hello\n"}, units={"web.service": "1.0"}
    )
    links = {
        "kernel": "linux-6.12.8/bzImage",
        "initrd": "initrd-linux-6.12.8/initrd",
        "kernel-modules": "linux-6.12.8-modules",
        "systemd": "systemd-257.9",
        "sw/bin/htop": "htop-3.4.1/bin/htop",
        "etc/systemd/system/web.service": "unit-web.service/web.service",
        "etc/systemd/system/dbus.service": "unit-dbus.service/dbus.service",
        "etc/motd": "etc-motd/file",
    }
    seen = bench.host.run(" ".join(("readlink -f", *(f"{system}/{link}" for link in links)))).splitlines()
    assert [re.sub(r"^/nix/store/[0-9a-z]{32}-", "", path) for path in seen] == list(links.values())
    for file, text in {
        "kernel-params": "loglevel=4 net.ifnames=0",
        "init-interface-version": "systemd 2",
        "switch-inhibitors": "",
        "system": "x86_64-linux",
        "nixos-version": "25.11",
    }.items():
        assert bench.host.file(f"{system}/{file}").read_text() == text
    assert bench.host.run(f"{system}/sw/bin/htop") == "htop 3.4.1"
    size = bench.host.run(f"nix-store -q --size $(readlink -f {system}/sw/bin/htop | cut -d/ -f1-4)")
    assert 99_000 < int(size) < 102_000


def test_one_change_of_the_configuration_moves_only_what_depends_on_it(bench):
    def parts(system: str) -> set[str]:
        return set(bench.fleet.controller("nix-store", "-qR", system).stdout.split())

    before = parts(bench.system(packages={"htop": "3.4.1"}))
    after = parts(bench.system(packages={"htop": "3.5.0"}))
    names = sorted(path.split("-", 1)[1] for path in after - before)
    assert names == ["htop-3.5.0", "nixos-system-n1-25.11", "system-path"]


def test_usage_and_rights(bench):
    system = bench.system()
    for verb in ("", "nonsense", "switch now"):
        code, output = bench.run(system, verb)
        assert code == 1
        assert "Usage:" in output
    code, output = bench.run(system, "switch", before="runuser -u deploy --")
    assert code == 1
    assert "must be run as the root user" in output


def test_switch_stops_starts_and_restarts_what_changed_and_leaves_the_rest_alone(bench):
    services = bench.services()
    units = {"web.service": "1.0", "other.service": "1.0"}
    first = bench.system(units=units, services=services)
    bench.set_profile(first)
    code, output = bench.run(first, "switch")
    assert code == 0
    assert "starting the following units: other.service, web.service" in output
    web, other = bench.pid("web.service"), bench.pid("other.service")
    assert web
    assert other
    second = bench.system(units={"web.service": "1.1", "other.service": "1.0"}, services=services)
    code, output = bench.run(second, "switch")
    assert code == 0
    assert "restarting the following units: web.service" in output
    assert bench.pid("other.service") == other
    assert bench.pid("web.service") not in {web, ""}
    assert bench.host.current == second
    assert bench.boots == first, "which is what the profile says"
    third = bench.system(units={"web.service": "1.1"}, services=services)
    code, output = bench.run(third, "test")
    assert code == 0
    assert "stopping the following units: other.service" in output
    assert bench.pid("other.service") == ""
    assert bench.host.run("systemctl is-active web") == "active"


def test_dry_activate_says_what_would_happen_and_does_nothing(bench):
    system = bench.system(units={"web.service": "1.0"})
    current = bench.host.current
    code, output = bench.run(system, "dry-activate")
    assert code == 0
    assert output.splitlines() == [
        "would activate the configuration...",
        "would start the following units: web.service",
    ]
    assert bench.host.current == current
    assert bench.host.run("systemctl is-active web", check=False) == "inactive"


def test_boot_is_only_for_the_next_boot_and_test_only_for_now(bench):
    system = bench.system(files={"motd": "one\n"})
    before, booted = bench.host.current, bench.boots
    assert bench.run(system, "test")[0] == 0
    assert (bench.host.current, bench.boots) == (system, booted)
    assert bench.host.run("cat /etc/static/motd") == "one"
    assert bench.run(before, "test")[0] == 0
    bench.set_profile(system)
    assert bench.run(system, "boot")[0] == 0
    assert (bench.host.current, bench.boots) == (before, system)
    bench.host.reboot()
    assert (bench.host.current, bench.host.booted) == (system, system)


def test_units_of_the_booted_system_run_after_a_reboot(bench):
    system = bench.system(units={"web.service": "1.0"}, services=bench.services())
    bench.set_profile(system)
    assert bench.run(system, "boot")[0] == 0
    bench.host.reboot()
    wait_until(lambda: bench.host.run("systemctl is-active web", check=False) == "active", "web.service", 10)


def test_a_unit_that_fails_to_start_is_exit_code_4_and_the_system_is_switched(bench):
    bad = {"web.service": {"Type": "oneshot", "ExecStart": "/bin/false"}}
    system = bench.system(units={"web.service": "1.0", "other.service": "1.0"}, services=bad)
    code, output = bench.run(system, "switch")
    assert code == 4
    assert "warning: the following units failed: web.service" in output
    assert bench.host.current == system
    assert bench.host.failed_units == ["web.service"]


def test_an_activation_script_that_fails_is_exit_code_2(bench):
    system = bench.system(activation={"exit": 2})
    code, output = bench.run(system, "switch")
    assert code == 2
    assert "Activation script snippet 'etc' failed (1)" in output


def test_a_pre_switch_check_that_fails_is_exit_code_1_and_nothing_changes(bench):
    system, current, boots = bench.system(activation={"check": 1}), bench.host.current, bench.boots
    for verb in ("check", "switch", "test"):
        code, output = bench.run(system, verb)
        assert code == 1
        assert output.endswith("Pre-switch checks failed")
    assert (bench.host.current, bench.boots) == (current, boots)
    assert bench.run(system, "boot")[0] == 0
    assert bench.run(system, "check", before="NIXOS_NO_CHECK=1")[0] == 0
    assert bench.run(system, "test", before="NIXOS_NO_CHECK=1")[0] == 0
    assert bench.host.current == system


def test_an_inhibitor_that_differs_refuses_a_switch_in_nixoss_words(bench):
    system, current = bench.system(inhibitors="dbus-implementation : broker\n"), bench.host.current
    code, output = bench.run(system, "switch")
    assert code == 1
    assert output.splitlines() == [
        "Checking switch inhibitors...",
        "There are changes to critical components of the system:",
        "",
        "(none) -> dbus-implementation : broker",
        "",
        "Switching into this system is not recommended.",
        "You probably want to run 'nixos-rebuild boot' and reboot your system instead.",
        "",
        "If you really want to switch into this configuration directly, then",
        "you can set NIXOS_NO_CHECK=1 to ignore pre-switch checks.",
        "",
        "WARNING: doing so might cause the switch to fail or your system to become unstable.",
        "",
        "Pre-switch check 'switchInhibitors' failed",
        "Pre-switch checks failed",
    ]
    assert bench.host.current == current
    assert bench.run(system, "boot")[0] == 0


def test_another_init_interface_is_exit_code_100_and_waits_for_the_boot(bench):
    system, current = bench.system(initInterface="systemd 3"), bench.host.current
    bench.set_profile(system)
    code, output = bench.run(system, "switch")
    assert code == 100
    assert "won't take effect until you reboot" in output
    assert (bench.host.current, bench.boots) == (current, system)


@pytest.mark.parametrize("last", [1, 3, 4, 100])
def test_any_other_end_can_be_written_into_a_closure(bench, last):
    system = bench.system(activation={"exit": last})
    assert bench.run(system, "switch")[0] == last


def test_a_boot_loader_that_fails_is_exit_code_1_and_the_old_one_stays(bench):
    current, boots = bench.host.current, bench.boots
    for system in (bench.system(activation={"loader": 1}), bench.system(initrd="big", sizes={"initrd": 400_000})):
        bench.set_profile(system)
        code, output = bench.run(system, "switch")
        assert code == 1
        assert output.endswith("Failed to install bootloader")
        assert (bench.host.current, bench.boots) == (current, boots)
        assert bench.host.run("ls /boot/EFI/nixos | grep tmp; true") == ""


def test_two_do_not_activate_at_once(bench):
    slow = bench.system(activation={"run": "touch /run/begun; while [ ! -e /run/go ]; do sleep 0.1; done"})
    bench.host.run("rm -f /run/go /run/begun")
    bench.host.run(f"{slow}/bin/switch-to-configuration test >/run/slow 2>&1 & ", check=False)
    wait_until(lambda: bench.host.run("ls /run/begun", check=False) != "", "the first", 10)
    code, output = bench.run(slow, "test")
    assert (code, output) == (11, "Could not acquire lock")
    assert bench.run(slow, "dry-activate")[0] == 0
    bench.host.run("touch /run/go")
    wait_until(lambda: bench.run(slow, "check")[0] == 0, "the end of the first", 10)


def test_a_specialisation_is_a_system_of_its_own(bench):
    special = {"quiet": {"kernelParams": ["quiet"], "units": {"web.service": "1.0"}}}
    system = bench.system(specialisation=special)
    inner = bench.host.run(f"readlink -f {system}/specialisation/quiet")
    assert bench.host.file(f"{inner}/kernel-params").read_text() == "quiet"
    assert bench.run(inner, "test")[0] == 0
    assert bench.host.current == inner
    assert bench.host.run("systemctl is-active web") == "active"


def test_what_is_written_into_a_closure_runs_at_its_place(bench):
    where = "readlink -f /run/current-system >>/run/order"
    before = bench.host.current
    system = bench.system(activation={"before": f"rm -f /run/order; {where}", "run": f'{where}; echo "it\'s done"'})
    code, output = bench.run(system, "test")
    assert code == 0
    assert "it's done" in output
    assert bench.host.run("cat /run/order").split() == [before, system]

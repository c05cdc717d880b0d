"""What a simulated host answers: the commands the product runs there, and 127 for everything else."""

import asyncio
import contextlib
import json

import pytest

from nixkube_deploy.lab.machine import Personality
from nixkube_deploy.lab.recipe import Configuration, recipe_for
from nixkube_deploy.lab.shell import Streams
from tests.builders import a_host
from tests.lab.lab_worlds import Bench

PROFILE = "/nix/var/nix/profiles/system"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


async def test_a_command_that_is_not_in_the_table_does_not_exist(bench):
    for name in ("kubectl", "python3", "colmena", "/usr/bin/perl", "/nix/store/x/bin/y"):
        ran = await bench.run(f"{name} --version")
        assert ran.code == 127
        assert name in ran.err


async def test_many_links_and_files_are_answered_by_one_program_each(bench):
    links = await bench.run("readlink -m /run/current-system /run/nowhere/at/all")
    assert (links.code, links.out) == (0, f"{bench.old.toplevel}\n/run/nowhere/at/all\n")
    files = await bench.run("head -v -n 9 /etc/machine-id /nowhere /proc/sys/kernel/osrelease")
    machine = bench.machine
    named = f"==> /etc/machine-id <==\n{machine.machine_id}\n\n==> /proc/sys/kernel/osrelease <==\n"
    assert (files.code, files.out) == (1, f"{named}{machine.kernel_release}\n")


async def test_the_facts_of_a_host_are_where_nixos_keeps_them(bench):
    script = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; uname -m; uname -r; id -u; hostname"
    machine = bench.machine
    assert (await bench.says(script)).splitlines() == [
        machine.machine_id,
        machine.boot_id,
        "x86_64",
        "6.12.7",
        "0",
        "w1",
    ]
    assert "ID=nixos" in await bench.says("cat /etc/os-release")
    assert await bench.says(f"readlink {PROFILE}") == "system-1-link\n"
    assert await bench.says(f"readlink -f {PROFILE}") == bench.old.toplevel + "\n"


async def test_the_parts_of_a_system_resolve_to_store_paths(bench):
    system = "/run/current-system"
    ran = await bench.says(
        f"readlink -f {system}/kernel {system}/initrd {system}/kernel-modules {system}/systemd "
        f"{system}/etc/systemd/system/k3s.service"
    )
    old = bench.old
    assert ran.splitlines() == [
        f"{old.kernel}/bzImage",
        f"{old.initrd}/initrd",
        old.modules,
        old.systemd,
        f"{old.units['k3s.service']}/k3s.service",
    ]


async def test_a_link_through_something_missing_fails_and_prints_nothing(bench):
    ran = await bench.run("readlink -f /run/nowhere/kernel")
    assert (ran.code, ran.out) == (1, "")
    assert (await bench.run("readlink -f /run/nowhere")).out == "/run/nowhere\n"


async def test_generations_have_an_age_and_what_runs_is_told(bench):
    script = (
        "date +%s; readlink -f /run/booted-system /run/current-system; ls -l --time-style=+%s /nix/var/nix/profiles"
    )
    now, booted, runs, *links = (await bench.says(script)).splitlines()
    assert (booted, runs) == (bench.old.toplevel, bench.old.toplevel)
    (link,) = [line.split() for line in links if " system-1-link -> " in line]
    assert (int(link[5]) <= int(now), link[-1]) == (True, bench.old.toplevel)
    assert any(line.endswith(" system -> system-1-link") for line in links)


async def test_a_store_path_that_was_not_copied_is_not_there(bench):
    new = bench.system(kernel="6.12.8", units={"k3s.service": "1.31.4"})
    assert (await bench.run(f"test -e {new.toplevel}")).code == 1
    refused = await bench.run(f"nix-env -p {PROFILE} --set {new.toplevel}")
    assert refused.code == 1
    bench.machine.roots.add(new.toplevel)
    assert (await bench.run(f"test -e {new.toplevel}/nixos-version")).code == 0


async def test_switching_restarts_what_changed_and_nothing_else(bench):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.4", "nginx.service": "1.28"})
    pid = bench.machine.units["sshd.service"].pid
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel}")
    ran = await bench.run(f"{new.toplevel}/bin/switch-to-configuration switch")
    assert ran.code == 0
    assert "restarting the following units: k3s.service" in ran.err
    assert "starting the following units: nginx.service" in ran.err
    assert bench.machine.current == new.toplevel
    assert bench.machine.booted == bench.old.toplevel
    assert bench.machine.units["sshd.service"].pid == pid
    assert bench.machine.activations == {new.toplevel: {"switch": 1}}


async def test_boot_changes_the_loader_and_not_the_running_system(bench):
    new = bench.receive(kernel="6.12.8")
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration boot")
    assert bench.machine.current == bench.old.toplevel
    assert "default nixos-generation-2.conf" in await bench.says("cat /boot/loader/loader.conf")


async def test_a_dry_activation_only_says_what_it_would_do(bench):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.4"})
    ran = await bench.run(f"{new.toplevel}/bin/switch-to-configuration dry-activate")
    assert ran.err == "would restart the following units: k3s.service\n"
    assert not bench.machine.activations


@pytest.mark.parametrize(
    ("spec", "code", "text", "switched"),
    [
        ("w1:switch=1", 1, "Failed to install bootloader", False),
        ("w1:switch=2", 2, "Failed to run activate script", False),
        ("w1:switch=4", 4, "the following units failed", True),
        ("w1:switch=100", 100, "until you reboot", False),
        ("w1:switch=inhibitor", 1, "Pre-switch check 'switchInhibitors' failed", False),
        ("w1:unit-fails=k3s.service", 4, "k3s.service", True),
        ("w1:lock-held", 11, "Could not acquire lock", False),
        ("w1:disk-full=boot", 1, "No space left on device", False),
    ],
)
async def test_a_scripted_switch_ends_with_the_real_exit_code(bench, spec, code, text, switched):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.4"})
    bench.fault(spec)
    ran = await bench.run(f"{new.toplevel}/bin/switch-to-configuration switch")
    assert ran.code == code
    assert text in ran.err
    assert (bench.machine.current == new.toplevel) is switched


async def test_a_fault_of_the_new_system_spares_the_old_one(bench):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.4"})
    bench.fault("w1:switch=2")
    assert (await bench.run(f"{new.toplevel}/bin/switch-to-configuration switch")).code == 2
    assert (await bench.run(f"{bench.old.toplevel}/bin/switch-to-configuration switch")).code == 0


async def test_a_changed_inhibitor_stops_a_switch_unless_checks_are_off(bench):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.3"}, inhibitors="dbus : broker\n")
    stc = f"{new.toplevel}/bin/switch-to-configuration"
    refused = await bench.run(f"{stc} switch")
    assert refused.code == 1
    assert "switchInhibitors" in refused.err
    assert (await bench.run(f"{stc} boot")).code == 0
    assert (await bench.run(f"NIXOS_NO_CHECK=1 {stc} switch")).code == 0


async def test_a_host_says_which_of_many_paths_it_lacks(bench):
    old, new = bench.old.toplevel, recipe_for(Configuration(host="w1", kernel="6.13.1")).toplevel
    ran = await bench.run(f"echo {old} {new} | xargs nix-store --check-validity --print-invalid")
    assert (ran.code, ran.out) == (0, f"{new}\n")
    ran = await bench.run(f"echo {old} {new} | xargs nix-store --check-validity")
    assert ran.code == 123
    assert "is not valid" in ran.err


async def test_a_host_tells_its_systems_closure_with_sizes(bench):
    ran = await bench.run(
        f"nix --extra-experimental-features nix-command path-info --offline -r -s '{bench.old.toplevel}'"
    )
    rows = [line.split() for line in ran.out.splitlines()]
    assert {path for path, _ in rows} == {bench.old.toplevel, *bench.old.parts}
    assert sum(int(size) for _, size in rows) == bench.old.closure_size


async def test_a_transient_unit_outlives_whoever_started_it(bench):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.4"})
    unit = "nixkube-deploy-switch-1"
    run = f"systemd-run --unit={unit} --no-block --service-type=oneshot --remain-after-exit"
    await bench.says(f"{run} -- {new.toplevel}/bin/switch-to-configuration switch")
    show = f"systemctl show {unit} --property=LoadState,ActiveState,SubState,Result,ExecMainStatus"
    assert "ActiveState=activating" in await bench.says(show)
    await asyncio.gather(*bench.host._tasks)
    assert (await bench.says(show)).splitlines() == [
        "LoadState=loaded",
        "ActiveState=active",
        "SubState=exited",
        "Result=success",
        "ExecMainStatus=0",
    ]
    assert "activating the configuration" in await bench.says(f"journalctl -u {unit} -o cat --no-pager -n 40")
    listed = await bench.says("systemctl list-units --all --plain --no-legend --no-pager 'nixkube-deploy-*'")
    assert listed.startswith(f"{unit}.service loaded active exited")
    again = await bench.run(f"systemd-run --unit={unit} -- true")
    assert again.code == 1
    assert "already loaded" in again.err
    await bench.says(f"systemctl stop {unit}")
    assert "LoadState=not-found" in await bench.says(show)


async def test_a_failed_transient_unit_stays_until_it_is_reset(bench):
    await bench.says("systemd-run --unit=u --no-block --service-type=oneshot -- false")
    await asyncio.gather(*bench.host._tasks)
    assert "u.service" in await bench.says("systemctl list-units --failed --plain --no-legend --no-pager")
    assert (await bench.run("systemctl is-system-running")).out == "degraded\n"
    await bench.says("systemctl reset-failed u")
    assert await bench.says("systemctl is-system-running") == "running\n"


async def test_a_dead_man_timer_fires_when_it_is_due_and_not_when_it_was_stopped(bench):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.4"})
    old = bench.old.toplevel
    back = f"nix-env -p {PROFILE} --set {old} && {old}/bin/switch-to-configuration switch"
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration switch")
    for unit in ("dead", "alive"):
        await bench.says(f"systemd-run --unit={unit} --on-active=900s --no-ask-password -- sh -c '{back}'")
    await bench.says("systemctl stop alive.timer")
    assert (await bench.run("systemctl is-active alive.timer")).out == "inactive\n"
    assert await bench.says("systemctl is-active dead.timer") == "active\n"
    bench.host.step(bench.at + 899)
    assert bench.machine.current == new.toplevel
    bench.host.step(bench.at + 901)
    await asyncio.gather(*bench.host._tasks)
    assert bench.machine.current == old
    assert bench.machine.profile_system == old


async def test_a_reboot_brings_the_default_entry_and_a_new_boot_id(bench):
    new = bench.receive(kernel="6.12.8")
    before = bench.machine.boot_id
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration boot")
    await bench.says("systemctl reboot")
    await asyncio.gather(*bench.started)
    assert bench.machine.boot_id != before
    assert (bench.machine.current, bench.machine.booted) == (new.toplevel, new.toplevel)
    assert await bench.says("uname -r") == "6.12.8\n"


async def test_a_one_shot_entry_falls_back_at_the_second_boot(bench):
    new = bench.receive(kernel="6.12.8")
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration boot")
    await bench.says("bootctl set-default nixos-generation-1.conf && bootctl set-oneshot nixos-generation-2.conf")
    for expected in (new.toplevel, bench.old.toplevel):
        bench.started.clear()
        await bench.says("systemctl reboot")
        await asyncio.gather(*bench.started)
        assert bench.machine.booted == expected


async def test_an_entry_once_and_the_default_in_loader_conf_are_what_the_loader_goes_by(bench):
    new = bench.receive(kernel="6.12.8")
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration boot")
    conf = "/boot/loader/loader.conf"
    await bench.says("bootctl set-oneshot nixos-generation-2.conf")
    await bench.says(f"printf '%s\\n' 'timeout 5' 'default nixos-generation-1.conf' >{conf}.x && mv {conf}.x {conf}")
    assert "default nixos-generation-1.conf" in await bench.says(f"cat {conf}")
    assert (await bench.run(f"cat {conf}.x")).code == 1
    variable = "/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    assert (await bench.run(f"test -e {variable}")).code == 0
    listed = {row["id"]: row["isDefault"] for row in json.loads(await bench.says("bootctl list --json=short"))}
    assert listed == {"nixos-generation-2.conf": True, "nixos-generation-1.conf": False}, "once comes first"
    found = await bench.says(f"grep -r -l -s -F init={new.toplevel}/init /boot/loader/entries /boot/EFI/Linux")
    assert found == "/boot/loader/entries/nixos-generation-2.conf\n"
    for expected in (new.toplevel, bench.old.toplevel):
        bench.started.clear()
        await bench.says("systemctl reboot")
        await asyncio.gather(*bench.started)
        assert bench.machine.booted == expected
        assert (await bench.run(f"test -e {variable}")).code == 1


async def test_a_kernel_that_panics_gives_the_loader_another_turn(bench):
    new = bench.receive(kernel="6.12.8")
    bench.fault("w1:boot-fails")
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration boot")
    await bench.says("bootctl set-default nixos-generation-1.conf && bootctl set-oneshot nixos-generation-2.conf")
    await bench.says("systemctl reboot")
    await asyncio.gather(*bench.started)
    assert bench.machine.booted == bench.old.toplevel


async def test_a_default_that_never_boots_leaves_the_machine_off(bench):
    new = bench.receive(kernel="6.12.8")
    bench.fault("w1:boot-fails")
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration boot")
    await bench.says("systemctl reboot")
    await asyncio.gather(*bench.started)
    assert not bench.machine.powered


async def test_kexec_goes_past_the_loader_and_is_forgotten_by_the_power(bench):
    new = bench.receive(kernel="6.12.8")
    load = f"kexec --load {new.toplevel}/kernel --initrd={new.toplevel}/initrd"
    line = f"'--command-line=init={new.toplevel}/init quiet'"
    assert "Cannot open" in (await bench.run(f"kexec --load /nowhere --initrd=/nowhere {line}")).err
    await bench.says(f"{load} {line} && kexec --unload")
    assert bench.machine.loader.loaded is None
    await bench.says(f"{load} {line} && systemctl kexec")
    await asyncio.gather(*bench.started)
    assert (bench.machine.booted, bench.machine.loader.loaded) == (new.toplevel, None)
    bench.started.clear()
    await bench.says("systemctl kexec")
    await asyncio.gather(*bench.started)
    assert bench.machine.booted == bench.old.toplevel, "nothing is held, so it is a reboot"


async def test_firmware_and_kernel_may_refuse(bench):
    bench.fault("w1:efi-read-only")
    bench.fault("w1:kexec-refused")
    refused = await bench.run("bootctl set-oneshot nixos-generation-1.conf")
    assert (refused.code, "Read-only file system" in refused.err) == (1, True)
    top = bench.old.toplevel
    refused = await bench.run(f"kexec --load {top}/kernel --initrd={top}/initrd --command-line=init={top}/init")
    assert (refused.code, "Operation not permitted" in refused.err) == (1, True)


async def test_a_machine_that_never_returns_is_off_until_somebody_comes(bench):
    bench.fault("w1:reboot-never-returns")
    await bench.says("systemctl reboot")
    await asyncio.gather(*bench.started)
    assert not bench.machine.powered
    bench.faults.clear()
    await bench.host.power_on()
    assert bench.machine.booted == bench.old.toplevel


async def test_a_machine_may_come_back_on_the_old_kernel(bench):
    new = bench.receive(kernel="6.12.8")
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel} && {new.toplevel}/bin/switch-to-configuration boot")
    bench.fault("w1:reboot-old-kernel*1")
    await bench.says("systemctl reboot")
    await asyncio.gather(*bench.started)
    assert bench.machine.booted == bench.old.toplevel


async def test_files_survive_a_reboot_where_they_should(bench):
    await bench.says("mkdir -p /var/lib/nixkube-deploy && tee /var/lib/nixkube-deploy/way-back.json", stdin="{}")
    await bench.says("echo run > /run/nixkube-deploy.holder")
    await bench.says("systemctl reboot")
    await asyncio.gather(*bench.started)
    assert await bench.says("cat /var/lib/nixkube-deploy/way-back.json") == "{}"
    assert (await bench.run("cat /run/nixkube-deploy.holder")).code == 1


@pytest.mark.parametrize(
    "command",
    [
        f"nix-env -p {PROFILE} --set /nix/store/x",
        "systemd-run --unit=u -- true",
        "systemctl reboot",
        "systemctl stop k3s.service",
        "mkdir -p /var/lib/nixkube-deploy",
        "cat /sys/class/dmi/id/product_serial",
        "flock --nonblock /run/nixkube-deploy.lock true",
        "bootctl set-oneshot nixos-generation-1.conf",
    ],
)
async def test_what_root_may_do_others_may_not(bench, command):
    ran = await bench.run(command, user="deploy")
    assert ran.code not in (0, 127)
    assert ran.err


async def test_wheel_becomes_root_without_a_password_unless_one_is_set(bench):
    assert await bench.says("sudo -n -- id -u", user="deploy") == "0\n"
    bench.host.password = "secret"
    refused = await bench.run("sudo -n -- id -u", user="deploy")
    assert (refused.code, refused.err) == (1, "sudo: a password is required\n")
    assert await bench.says("sudo -S -p '' -- id -u", user="deploy", stdin="secret\n") == "0\n"
    assert (await bench.run("sudo -S -p '' -- id -u", user="deploy", stdin="wrong\n")).code == 1


async def test_the_password_line_is_not_part_of_the_commands_input(bench):
    bench.host.password = "secret"
    assert await bench.says("sudo -S -p '' -- cat", user="deploy", stdin="secret\nrest") == "rest"
    assert await bench.says("sudo -S -p '' -- cat", stdin="not asked\nrest") == "not asked\nrest"


async def test_doas_is_there_only_where_hosts_use_it(bench):
    assert (await bench.run("doas -n -- id -u", user="deploy")).code == 127
    bench.host.privilege = "doas"
    assert await bench.says("doas -n -- id -u", user="deploy") == "0\n"
    assert await bench.says("run0 --no-ask-password -- id -u", user="deploy") == "0\n"


async def test_sudo_can_be_told_to_refuse(bench):
    bench.fault("w1:sudo-password-wrong")
    assert (await bench.run("sudo -n -- true", user="deploy")).code == 1


async def test_a_lock_is_held_as_long_as_its_command_runs(bench):
    lock = "flock --nonblock --conflict-exit-code 75 /run/nixkube-deploy.lock"
    holder = bench.host.process(bench.host.execute("root", f"{lock} sleep 60", Streams()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await bench.run(f"{lock} true")).code == 75
    holder.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await holder
    assert (await bench.run(f"{lock} sh -c 'echo locked; cat'", stdin="")).out == "locked\n"


async def test_a_lock_held_by_somebody_else_names_its_holder(bench):
    bench.fault("w1:host-lock-held=run-of-anna")
    assert (await bench.run("flock --nonblock --conflict-exit-code 75 /run/nixkube-deploy.lock true")).code == 75
    assert await bench.says("cat /run/nixkube-deploy.holder") == "run-of-anna\n"


async def test_a_full_disk_shows_in_df_and_in_writes(bench):
    assert (await bench.says("df -Pk /nix/store")).splitlines()[1].split()[3] != "0"
    bench.fault("w1:disk-full")
    assert (await bench.says("df -Pk /nix/store")).splitlines()[1].split()[3] == "0"
    assert (await bench.says("df -Pk /boot")).splitlines()[1].split()[3] != "0"
    await bench.says("mkdir -p /var/lib/x")
    assert (await bench.run("tee /var/lib/x/y", stdin="text")).code == 1


async def test_generations_are_listed_rolled_back_and_deleted(bench):
    new = bench.receive(kernel="6.12.8")
    await bench.says(f"nix-env -p {PROFILE} --set {new.toplevel}")
    assert "(current)" in (await bench.says(f"nix-env -p {PROFILE} --list-generations")).splitlines()[1]
    await bench.says(f"nix-env --rollback -p {PROFILE}")
    assert await bench.says(f"readlink -f {PROFILE}") == bench.old.toplevel + "\n"
    await bench.says(f"nix-env -p {PROFILE} --switch-generation 2")
    assert (await bench.run(f"nix-env -p {PROFILE} --delete-generations 2")).code == 1
    await bench.says(f"nix-env -p {PROFILE} --delete-generations 1")
    assert list(bench.machine.generations) == [2]


async def test_garbage_is_what_no_generation_and_no_boot_needs(bench):
    new = bench.receive(kernel="6.12.8")
    assert "1 store paths deleted" in await bench.says("nix-collect-garbage")
    assert (await bench.run(f"test -e {new.toplevel}")).code == 1
    assert (await bench.run(f"test -e {bench.old.toplevel}")).code == 0


async def test_a_foreign_system_has_no_nix(bench):
    bare = bench.embodied(a_host("w1"), None)
    assert bare.machine.personality is Personality.DEBIAN
    assert "ID=debian" in await bench.says("cat /etc/os-release", host=bare)
    assert (await bench.run("nix-env --version", host=bare)).code == 127
    assert (await bench.run("test -e /run/current-system", host=bare)).code == 1
    assert (await bench.run("readlink -f /run/current-system/kernel", host=bare)).code == 1


async def test_a_hanging_program_does_not_end_by_itself(bench):
    bench.fault("w1:hang=is-active*1")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(bench.run("systemctl is-active k3s"), 0.05)
    assert await bench.says("systemctl is-active k3s") == "active\n"


async def test_stopping_a_unit_kills_what_hangs_in_it_and_frees_its_lock(bench):
    new = bench.receive(kernel="6.12.7", units={"k3s.service": "1.31.4"})
    stc = f"{new.toplevel}/bin/switch-to-configuration"
    bench.fault("w1:hang=switch-to-configuration*1")
    await bench.says(f"systemd-run --unit=u --no-block --service-type=oneshot --remain-after-exit -- {stc} switch")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await bench.run(f"{stc} switch")).err == "Could not acquire lock\n"
    await bench.says("systemctl stop u")
    await asyncio.sleep(0)
    assert bench.machine.current == bench.old.toplevel
    assert (await bench.run(f"{stc} switch")).code == 0

"""The stand-ins on the controller: they accept what the real programs accept and fail in their words."""

import json
import os
import resource
import subprocess
import sys

import pytest

from nixkube_deploy.lab.control import ControlServer, socket_path
from nixkube_deploy.lab.machine import Personality
from nixkube_deploy.lab.tools.table import write_scripts
from tests.lab.lab_worlds import a_world, ssh_options, use

pytestmark = [pytest.mark.lab, pytest.mark.filterwarnings("ignore::ResourceWarning")]

SELECT = (
    "cs: let f = c: { drvPath = c.config.system.build.toplevel.drvPath; out = c.config.system.build.toplevel.outPath; "
    "system = c.pkgs.stdenv.hostPlatform.system; }; in { %s }"
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def world(tmp_path):
    async with a_world(tmp_path) as world:
        yield world


def select(*names):
    return SELECT % " ".join(f'"{name}" = f cs."{name}";' for name in names)


async def evaluate(world, *names):
    ran = await use(
        world, "nix", "eval", "--json", f"{world.folder}/flake#nixosConfigurations", "--apply", select(*names)
    )
    return json.loads(ran.out) if ran.code == 0 else ran


async def built(world, *names):
    found = await evaluate(world, *names)
    ran = await use(world, "nix", "build", "--json", "--no-link", *(f"{one['drvPath']}^out" for one in found.values()))
    assert ran.code == 0, ran
    return {name: one["out"] for name, one in found.items()}


async def test_new_commands_are_experimental(world):
    ran = await use(world, "nix", "flake", "metadata", f"{world.folder}/flake", NIX_CONFIG="")
    assert ran.code == 1
    assert "experimental Nix feature 'nix-command' is disabled" in ran.err


async def test_one_evaluation_answers_for_every_host_it_names(world):
    found = await evaluate(world, "w1", "cp1")
    assert set(found) == {"w1", "cp1"}
    assert found["w1"]["out"].endswith("-nixos-system-w1-25.11")
    assert found["w1"]["drvPath"].endswith("-nixos-system-w1-25.11.drv")
    assert found["w1"]["system"] == "x86_64-linux"


async def test_a_changed_file_changes_exactly_the_hosts_it_applies_to(world):
    before = await evaluate(world, "cp1", "w1", "w2")
    role = world.folder / "flake/roles/worker.json"
    role.write_text(json.dumps({**json.loads(role.read_text()), "kernel": "6.12.9"}))
    after = await evaluate(world, "cp1", "w1", "w2")
    assert {name for name in before if before[name] != after[name]} == {"w1", "w2"}
    own = world.folder / "flake/hosts/w2.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), "packages": {"htop": "4"}}))
    last = await evaluate(world, "cp1", "w1", "w2")
    assert {name for name in before if after[name] != last[name]} == {"w2"}


async def test_the_flakes_state_changes_with_any_file(world):
    async def state():
        return json.loads((await use(world, "nix", "flake", "metadata", "--json", f"{world.folder}/flake")).out)

    before = await state()
    (world.folder / "flake/hosts/w1.json").write_text('{"role": "worker", "kernel": "6.6.1"}')
    after = await state()
    assert before["locked"]["narHash"].startswith("sha256-")
    assert before["locked"]["narHash"] != after["locked"]["narHash"]


async def test_an_evaluation_error_fails_the_whole_call(world):
    assert (await evaluate(world, "w1", "nobody")).err.endswith("error: attribute 'nobody' missing\n")
    world.add_fault("w2:eval-fails*1")
    assert "error:" in (await evaluate(world, "w1", "w2")).err
    assert "w2" in await evaluate(world, "w1", "w2")
    (world.folder / "flake/common.json").write_text("{,}")
    assert "parse error in common.json" in (await evaluate(world, "w1")).err


async def test_a_set_with_an_out_path_prints_as_a_string(world):
    expression = 'cs: { "w1" = { outPath = cs."w1".outPath; drvPath = 1; }; }'
    ran = await use(world, "nix", "eval", "--json", f"{world.folder}/flake#nixosConfigurations", "--apply", expression)
    assert isinstance(json.loads(ran.out)["w1"], str)


async def test_building_makes_real_directories_and_links(world):
    system = (await built(world, "w1"))["w1"]
    physical = world.store.physical(system)
    assert (physical / "kernel").is_symlink()
    assert str((physical / "kernel").readlink()).endswith("/bzImage")
    assert (physical / "kernel-params").read_text() == "loglevel=4 net.ifnames=0"
    assert world.store.physical(str((physical / "etc").readlink())).is_dir()


async def test_a_build_that_fails_names_the_derivation_and_spares_the_others(world):
    found = await evaluate(world, "w1", "w2")
    world.add_fault("fleet:build-fails=w2")
    drvs = [f"{one['drvPath']}^out" for one in found.values()]
    ran = await use(world, "nix", "build", "--json", "--no-link", "--keep-going", *drvs)
    assert (ran.code, ran.out) == (1, "")
    assert f"error: builder for '{found['w2']['drvPath']}' failed with exit code 1;" in ran.err
    assert world.store.has(found["w1"]["out"])
    assert not world.store.has(found["w2"]["out"])


async def test_unknown_flags_fail_as_the_real_programs_fail(world):
    for argv in (("build", "--frobnicate"), ("copy", "--check"), ("eval", "--sudo")):
        ran = await use(world, "nix", *argv)
        assert ran.code == 1
        assert "unrecognised flag" in ran.err
    assert (await use(world, "nix", "frobnicate")).code == 1
    assert (await use(world, "nixos-rebuild", "switch", "--frobnicate")).code == 2
    assert (await use(world, "deploy-rs", ".#w1", "--frobnicate")).code == 2
    assert (await use(world, "nixos-anywhere", "--target-host", "root@127.0.0.1", "--frobnicate")).code == 1


async def test_a_copied_closure_is_on_the_host_and_is_not_copied_twice(world):
    system = (await built(world, "w1"))["w1"]
    options = ssh_options(world, "w1")
    copy = ("copy", "--to", "ssh://root@127.0.0.1", "--substitute-on-destination", system)
    first = await use(world, "nix", *copy, NIX_SSHOPTS=options)
    assert (first.code, f"copying path '{system}'" in first.err) == (0, True)
    again = await use(world, "nix", *copy, NIX_SSHOPTS=options)
    assert (again.code, again.err) == (0, "")
    assert world.hosts["w1"].filesystem("root").exists(system)
    info = await use(world, "nix", "path-info", "--store", "ssh://root@127.0.0.1", system, NIX_SSHOPTS=options)
    assert info.out == system + "\n"
    missing = await use(
        world, "nix", "path-info", "--store", "ssh://root@127.0.0.1", system, NIX_SSHOPTS=ssh_options(world, "w2")
    )
    assert missing.code == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("-p 1 -i {key} -o UserKnownHostsFile={known}", "Connection refused"),
        ("-p {port} -i {key} -o UserKnownHostsFile=/none", "Host key verification failed"),
        ("-p {other} -i {key} -o UserKnownHostsFile={swapped}", "REMOTE HOST IDENTIFICATION HAS CHANGED"),
        ("-p {port} -o UserKnownHostsFile={known}", "Permission denied (publickey)"),
        ("-p {port} -i /none -o UserKnownHostsFile={known}", "Permission denied (publickey)"),
    ],
)
async def test_a_copy_needs_what_openssh_needs(world, options, text):
    system = (await built(world, "w1"))["w1"]
    ssh_options(world, "w1")
    ports = {name: host.machine.port for name, host in world.hosts.items()}
    swapped = world.folder / "swapped"
    swapped.write_text(f"[127.0.0.1]:{ports['w2']} {world.keyring.public('w1')}\n")
    given = options.format(
        port=ports["w1"],
        other=ports["w2"],
        key=world.folder / "keys/id_ed25519",
        known=world.folder / "known_hosts",
        swapped=swapped,
    )
    ran = await use(world, "nix", "copy", "--to", "ssh://root@127.0.0.1", system, NIX_SSHOPTS=given)
    assert ran.code == 1
    assert text in ran.err


async def test_root_needs_signatures_over_ssh_ng_and_not_over_ssh(world):
    system = (await built(world, "w1"))["w1"]
    options = ssh_options(world, "w1")
    refused = await use(world, "nix", "copy", "--to", "ssh-ng://root@127.0.0.1", system, NIX_SSHOPTS=options)
    assert "lacks a signature by a trusted key" in refused.err
    taken = await use(world, "nix", "copy", "--to", "ssh://root@127.0.0.1", system, NIX_SSHOPTS=options)
    assert taken.code == 0


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("w1:copy-fails", "Broken pipe"),
        ("w1:copy-unsigned", "lacks a signature"),
        ("w1:disk-full", "No space left on device"),
        ("w1:unreachable", "Connection refused"),
        ("w1:wrong-host-key", "Host key verification failed"),
        ("w1:auth-refused", "Permission denied"),
    ],
)
async def test_a_scripted_fault_breaks_a_copy_once(world, spec, text):
    system = (await built(world, "w1"))["w1"]
    options = ssh_options(world, "w1")
    world.add_fault(spec)
    ran = await use(world, "nix", "copy", "--to", "ssh://root@127.0.0.1", system, NIX_SSHOPTS=options)
    assert (ran.code, text in ran.err) == (1, True)
    await world.clear_faults("w1", None)
    assert (await use(world, "nix", "copy", "--to", "ssh://root@127.0.0.1", system, NIX_SSHOPTS=options)).code == 0


async def test_nixos_rebuild_switches_a_host_to_a_store_path(world):
    system = (await built(world, "w1"))["w1"]
    argv = ("switch", "--store-path", system, "--target-host", "root@127.0.0.1", "--no-reexec")
    ran = await use(world, "nixos-rebuild", *argv, NIX_SSHOPTS=ssh_options(world, "w1"))
    assert ran.code == 0, ran
    assert world.hosts["w1"].machine.current == system
    world.add_fault("w2:switch=4")
    argv = ("switch", "--store-path", (await built(world, "w2"))["w2"], "--target-host", "root@127.0.0.1", "--sudo")
    assert (await use(world, "nixos-rebuild", *argv, NIX_SSHOPTS=ssh_options(world, "w2"))).code == 4


async def test_deploy_rs_leaves_a_profile_that_is_not_the_running_system(world):
    argv = (f"{world.folder}/flake#w1", "-s", "--hostname", "127.0.0.1", "--ssh-user", "root", "--ssh-opts")
    ran = await use(world, "deploy-rs", *argv, ssh_options(world, "w1"))
    assert ran.code == 0, ran
    machine = world.hosts["w1"].machine
    assert "-activatable-" in machine.profile_system
    assert machine.current == (await evaluate(world, "w1"))["w1"]["out"]


async def test_deploy_rs_cannot_take_back_a_first_deployment(world):
    before = world.hosts["w1"].machine.current
    world.add_fault("w1:switch=4*1")
    argv = (f"{world.folder}/flake#w1", "-s", "--hostname", "127.0.0.1", "--ssh-user", "root", "--ssh-opts")
    ran = await use(world, "deploy-rs", *argv, ssh_options(world, "w1"))
    assert ran.code == 1
    assert "Failed to re-activate" in ran.err
    assert world.hosts["w1"].machine.current != before


async def test_a_bare_machine_becomes_a_host_phase_by_phase(tmp_path):
    async with a_world(tmp_path, bare=("w2",)) as world:
        host = world.hosts["w2"]
        machine, old_id = host.machine, host.machine.machine_id
        assert machine.personality is Personality.DEBIAN
        assert "w2" not in {node.name for node in world.kube.summary()}
        system = (await built(world, "w2"))["w2"]
        disko = json.loads(
            (
                await use(
                    world, "nix", "build", "--json", "--no-link",
                    f'{world.folder}/flake#nixosConfigurations."w2".config.system.build.diskoScript',
                )
            ).out
        )[0]["outputs"]["out"]  # fmt: skip
        extra = tmp_path / "extra/etc/ssh"
        extra.mkdir(parents=True)
        (extra / "ssh_host_ed25519_key").write_bytes(world.keyring.key("sent-along").export_private_key())

        async def phase(name):
            return await use(
                world, "nixos-anywhere", "--target-host", "root@127.0.0.1", "-p", str(machine.port),
                "--post-kexec-ssh-port", str(machine.port),
                "-i", str(world.folder / "keys/id_ed25519"), "--phases", name, "--store-paths", disko, system,
                "--extra-files", str(tmp_path / "extra"),
            )  # fmt: skip

        too_early = await phase("disko")
        assert (too_early.code, "does not run a NixOS installer" in too_early.err) == (1, True)
        for name in ("kexec", "disko", "install"):
            ran = await phase(name)
            assert ran.code == 0, ran
        assert machine.personality is Personality.INSTALLER
        assert (await phase("reboot")).code == 0
        while not machine.powered:
            await _tick()
        assert machine.personality is Personality.NIXOS
        assert (machine.current, machine.booted, machine.hostname) == (system, system, "w2")
        assert machine.machine_id != old_id
        assert world.keyring.public(machine.host_key) == world.keyring.public("sent-along")
        for _ in range(100):
            await _tick()
            if any(node.name == "w2" and node.ready for node in world.kube.summary()):
                return
        pytest.fail("the installed host never joined the cluster")


async def _tick():
    import asyncio

    await asyncio.sleep(0.02)


async def test_the_scripts_on_path_act_on_the_world(world):
    control = ControlServer(world, lambda: None)
    await control.start()
    write_scripts(world.folder / "bin", socket_path(world.folder))

    def run(*argv):
        env = {"PATH": os.environ["PATH"], "NIX_CONFIG": "experimental-features = nix-command flakes"}
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=30)

    import asyncio

    nix = str(world.folder / "bin/nix")
    version = await asyncio.to_thread(run, nix, "--version")
    assert (version.returncode, version.stdout) == (0, "nix (Nix) 2.28.5\n")
    failing = await asyncio.to_thread(run, nix, "eval", f"{world.folder}/flake#nothing")
    assert (failing.returncode, failing.stdout) == (1, "")
    assert "error:" in failing.stderr
    fastest = min([await asyncio.to_thread(_processor_time, run, nix, "--version") for _ in range(5)])
    bare = min([await asyncio.to_thread(_processor_time, run, sys.executable, "-IS", "-c", "pass") for _ in range(5)])
    assert fastest - bare < 0.04
    await control.close()
    gone = await asyncio.to_thread(run, nix, "--version")
    assert gone.returncode == 1
    assert "nixkube-lab up" in gone.stderr


def _processor_time(run, *argv):
    """Seconds the program computed: what a busy machine does beside it does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*argv)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

"""The probe's script, word for word, and what is made of answers good, bad and hostile.

UPDATE_GOLDEN=1 rewrites the script's golden file.
"""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.facts import HostFacts
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.model.fleet import Distribution
from nixkube_deploy.protocols.probe import etcd_member, generation, host_facts, probe, table
from nixkube_deploy.protocols.script import Question, answers, script
from tests.builders import a_host, store_path
from tests.fakes.shell import FakeShell

GOLDEN = Path(__file__).parents[2] / "golden/protocols/probe-k3s.sh"
HOST = a_host("w1")
BOOT_ID = "6d1b4c1e-9a52-4d2e-8f6b-0123456789ab"
SYSTEM = store_path("nixos-system-w1-25.11")
UNIT = store_path("unit-k3s.service") + "/k3s.service"

NIXOS = {
    "os_id": "NAME=NixOS\nID=nixos\nVERSION_ID=25.11",
    "machine_id": "b7b0e3a8f5c94d55a1c2d3e4f5061728",
    "boot_id": BOOT_ID,
    "machine": "x86_64",
    "kernel_release": "6.12.8",
    "hostname": "w1",
    "serial": "S4EV 1234",
    "profile": SYSTEM,
    "generation": "system-42-link",
    "disk": "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda2 100 60 40 60% /\n"
    "/dev/vda1 500 100 400 20% /boot",
    "loader.systemd-boot": "yes\nyes",
    "failed_units": "a.service loaded failed failed A\nb.mount loaded failed failed B",
    "activations": "nixkube-deploy-switch-x.service loaded active exited /nix/store",
    "current": SYSTEM,
    "current.kernel": store_path("linux-6.12.8") + "/bzImage",
    "current.initrd": store_path("initrd") + "/initrd",
    "current.kernel_modules": store_path("modules"),
    "current.kernel_params": "loglevel=4 quiet",
    "current.systemd": store_path("systemd-257.1"),
    "current.inhibitors": "dbus: broker",
    "current.units.k3s.service": UNIT,
    "booted": SYSTEM,
}


def an_output(values: dict[str, str], *, newline: str = "\n", banner: str = "") -> str:
    lines = [banner] if banner else []
    for fact in table(Distribution.K3S):
        lines += ["", f"@{fact.name}", *values.get(fact.name, "").split("\n")]
    return newline.join([*lines, "", "@end", ""])


async def probed(output: str, exit_code: int = 0) -> HostFacts:
    shell = FakeShell().answers("sh", "-c", stdout=output, exit_code=exit_code)
    facts = await probe(shell, HOST, Distribution.K3S)
    assert len(shell.ran) == 1
    assert not shell.ran[0].command.privileged
    return facts


def test_the_script_is_what_it_was():
    text = script(Question(name=f.name, command=f.command) for f in table(Distribution.K3S)) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_script_needs_no_more_shell_than_it_may():
    text = script(Question(name=f.name, command=f.command) for f in table(Distribution.KUBERNETES))
    assert not set("|$`*(){}") & set(
        text.replace("||", "").replace("nixkube-deploy-*", "").replace("/specialisation/*", "")
    )


async def test_a_nixos_host_is_read_in_one_round_trip():
    facts = await probed(an_output(NIXOS))
    assert facts.current is not None
    assert facts.booted is not None
    assert (facts.system, facts.boot_id, facts.os_id) == ("x86_64-linux", BOOT_ID, "nixos")
    assert (facts.profile, facts.generation, facts.loader) == (SYSTEM, 42, "systemd-boot")
    assert (facts.disk.store, facts.disk.boot) == (40 * 1024, 400 * 1024)
    assert facts.failed_units == ("a.service", "b.mount")
    assert facts.activations == ("nixkube-deploy-switch-x.service",)
    assert facts.serial == "S4EV 1234"
    assert facts.current.units == {"k3s.service": UNIT}
    assert facts.current.kernel_params == "loglevel=4 quiet"
    assert facts.current.inhibitors == "dbus: broker"
    assert (facts.booted.kernel, facts.booted.units) == ("", {})
    assert facts.node is None


async def test_carriage_returns_and_a_banner_do_no_harm():
    plain = await probed(an_output(NIXOS))
    assert await probed(an_output(NIXOS, newline="\r\n", banner="*** Welcome ***\n@boot_id is not here")) == plain


async def test_a_bare_debian_machine_has_no_system():
    debian = {
        "os_id": 'PRETTY_NAME="Debian GNU/Linux 12"\nID="debian"',
        "boot_id": BOOT_ID,
        "machine": "aarch64",
        "machine_id": "uninitialized",
        "current": "/run/current-system",
        "booted": "/run/booted-system",
        "profile": "/nix/var/nix/profiles/system",
        "loader.grub": "yes",
    }
    facts = await probed(an_output(debian))
    assert (facts.current, facts.booted, facts.profile, facts.generation) == (None, None, None, None)
    assert (facts.os_id, facts.system, facts.machine_id, facts.loader) == ("debian", "aarch64-linux", "", "grub")
    assert facts.disk.store is None
    assert not facts.runs_nixos


async def test_an_answer_that_was_cut_short_is_a_transient_failure():
    output = an_output(NIXOS)
    with pytest.raises(TaskError) as caught:
        await probed(output[: output.index("@end")])
    assert caught.value.failure.transient
    assert caught.value.failure.seen.endswith(": etcd")
    assert "exit code 0" in caught.value.failure.seen


async def test_a_host_without_a_shell_says_so():
    with pytest.raises(TaskError) as caught:
        await probed("This account is currently not available.\n", exit_code=1)
    assert caught.value.failure.evidence == ("This account is currently not available.",)


@pytest.mark.parametrize("missing", ["boot_id", "machine"])
async def test_a_host_that_is_no_linux_machine_is_a_final_failure(missing):
    with pytest.raises(TaskError) as caught:
        await probed(an_output({**NIXOS, missing: "command not found!"}))
    assert caught.value.failure.kind is FailureKind.COMMAND
    assert not caught.value.failure.transient


async def test_an_installer_is_told_from_an_installation():
    facts = await probed(an_output({**NIXOS, "variant": "ID=nixos\nVARIANT_ID=installer"}))
    assert facts.variant == "installer"
    assert not facts.runs_nixos


def test_garbage_in_a_value_reads_as_absent():
    assert generation("system-0000000000000000000001-link") is None
    garbage = {f.name: f.read("\x00 ..garbage.. \n@@") for f in table(Distribution.K3S)}
    facts = host_facts(HOST, {**garbage, "boot_id": BOOT_ID, "machine": "x86_64"})
    assert (facts.current, facts.generation, facts.failed_units, facts.disk.store) == (None, None, (), None)


@pytest.mark.parametrize("distribution", list(Distribution))
def test_every_field_of_the_facts_is_asked_for(distribution):
    names = {f.name for f in table(distribution, control_plane=True)}
    derived = {"host", "system", "loader", "disk", "node", "disks", "missing_disks", "namesake"}
    derived |= set() if distribution.has_kubelet else {"etcd"}
    assert set(HostFacts.__slots__) - derived <= names
    assert {f"current.units.{unit}" for unit in distribution.node_units} <= names


@pytest.mark.parametrize(
    ("answer", "member"),
    [("unit", True), ("embedded", True), ("hidden", True), ("unit\nhidden", True), ("", False), ("garbage @", False)],
)
def test_a_host_where_anything_speaks_for_etcd_has_a_member_until_it_was_asked(answer, member):
    found = etcd_member(answer)
    assert (found is not None) is member
    assert found is None or not found.serves


def test_a_worker_is_asked_for_the_unit_only_and_without_kubernetes_nobody_is_asked():
    asked = {f.name: f.command for f in table(Distribution.K3S)}["etcd"]
    assert asked == "test -e /etc/systemd/system/etcd.service && echo unit"
    assert not [f for f in table(Distribution.NONE, control_plane=True) if f.name == "etcd"]


_NAMES = [f.name for f in table(Distribution.K3S)]
_LINE = st.one_of(st.sampled_from([f"@{name}" for name in [*_NAMES, "end"]]), st.text(max_size=40))


@given(st.one_of(st.text(), st.lists(_LINE).map("\n".join), st.lists(_LINE).map("\r\n".join)))
async def test_whatever_a_host_prints_nothing_but_a_task_error_is_raised(output):
    with contextlib.suppress(TaskError):
        await probed(output)


@given(st.dictionaries(st.sampled_from(_NAMES), st.text(max_size=200)))
async def test_whatever_a_host_answers_to_the_questions_nothing_but_a_task_error_is_raised(values):
    with contextlib.suppress(TaskError):
        await probed(an_output({"boot_id": BOOT_ID, "machine": "x86_64", **values}))


@given(st.text())
def test_every_reader_takes_any_text(text):
    for fact in table(Distribution.KUBERNETES):
        fact.read(text)


def test_a_marker_counts_once():
    assert answers("@a\n1\n@b\n2\n@a\n3\n@end\n", ["a", "b"]) == {"a": "1", "b": "2\n@a\n3", "end": ""}

"""A path, a text or a program becomes a Fleet."""

import os
import time
from pathlib import Path

import pytest

from nixkube_deploy.inventory.error import InventoryError
from nixkube_deploy.inventory.load import Loaded, load_fleet
from nixkube_deploy.inventory.source import LARGEST
from nixkube_deploy.model.fleet import (
    IN_CLUSTER,
    Activator,
    BootstrapSettings,
    CopyVia,
    Distribution,
    HostKeyPolicy,
    Privilege,
    Role,
)
from nixkube_deploy.model.secret import SecretFromCommand, SecretFromEnv, SecretFromFile
from nixkube_deploy.model.strategy import (
    AlertBlocker,
    Limit,
    Mode,
    OnFailure,
    PodBlocker,
    RebootBlockers,
    RebootMethod,
    RebootPolicy,
    SelectedPods,
    Window,
)

HEAD = "cluster: {name: home}\nflake: github:me/fleet\n"
SMALL = HEAD + "groups: {cp: {role: control-plane}, workers: }\nhosts:\n  cp1: {groups: [cp]}\n"


def load(text: str, path: str = "/srv/inventories/fleet.yaml") -> Loaded:
    return load_fleet(Path(path), text=text)


def test_what_nobody_wrote_is_the_models_default() -> None:
    fleet = load(SMALL).fleet
    host = fleet.hosts["cp1"]

    assert host.address == "cp1"
    assert host.system == "x86_64-linux"
    assert host.ssh.user is None
    assert host.ssh.connect_timeout == 10.0
    assert host.bootstrap is None
    assert fleet.cluster.distribution is Distribution.K3S
    assert fleet.strategy.max_unavailable == Limit(25, percent=True)
    assert fleet.gates.kubelet.ready_for == 30.0
    assert fleet.source == "/srv/inventories/fleet.yaml"


def test_every_key_of_the_manual_reaches_the_model() -> None:
    fleet = load(MANUAL).fleet
    host = fleet.hosts["pi1"]

    assert fleet.cluster.kubeconfig == str(Path("~/.kube/config").expanduser())
    assert (host.ssh.user, host.ssh.port, host.ssh.jump) == ("root", 2222, "bastion")
    assert host.ssh.identity_file == "/srv/inventories/keys/id"
    assert host.ssh.host_key_policy is HostKeyPolicy.ACCEPT_NEW
    assert host.ssh.config == "none"
    assert (host.privilege, host.activation, host.copy.via) == (Privilege.SUDO, Activator.DEPLOY_RS, CopyVia.CACHE)
    assert host.privilege_password == SecretFromEnv(env="PI_PASSWORD")
    assert host.bootstrap == BootstrapSettings(
        disks=("/dev/disk/by-id/nvme-XYZ",),
        extra_files="/srv/inventories/secrets/pi1",
        expect_serial="S4EV",
        kexec="https://example.org/kexec.tar.gz",
    )
    strategy = fleet.strategy
    assert (strategy.mode, strategy.spread, strategy.on_failure) == (Mode.WAVES, "zone", OnFailure.HALT)
    assert strategy.max_failures == Limit(10, percent=True)
    assert strategy.windows == (
        Window(days=frozenset({5, 6}), start=120, end=360, tz="Europe/Zurich"),
        Window(days=frozenset(range(7)), start=1320, end=1440, tz="UTC"),
    )
    assert (strategy.host.soak, strategy.host.drain.timeout) == (90.0, 600.0)
    assert strategy.host.reboot_method is RebootMethod.KEXEC
    assert strategy.host.reboot_blockers == RebootBlockers(
        pods=(PodBlocker(selector="app=backup,!draft", namespace="jobs"), PodBlocker(selector="tier in (batch)")),
        prometheus=(AlertBlocker(url="http://prometheus:9090"),),
        timeout=1800.0,
    )
    assert host.policy.reboot_blockers == strategy.host.reboot_blockers
    assert fleet.groups["workers"].max_unavailable == Limit(2)
    gates = fleet.gates
    assert (gates.kubelet.timeout, gates.pods.critical) == (600.0, False)
    assert gates.pods.selected == (
        SelectedPods(selector="app=ceph-mon", namespace="rook", at_least=3),
        SelectedPods(selector="web"),
    )
    assert gates.http[0].expect == 204
    assert gates.command[0].on == "@control-plane"
    assert gates.prometheus[0].expect == "nonempty"


MANUAL = """
cluster: {name: homelab, distribution: k3s, kubeconfig: ~/.kube/config, context: homelab}
flake: ../flakes/homelab
defaults:
  ssh: {user: root, port: 2222, identity_file: keys/id, jump: bastion, config: none, host_key_policy: accept-new}
  privilege: sudo
  activation: deploy-rs
  copy: {via: cache, cache: "https://cache.example", substitute: false}
strategy:
  canary: 2
  max_unavailable: 50%
  mode: waves
  spread: zone
  soak: 1m30s
  max_failures: 10%
  on_failure: halt
  drain: {timeout: 10m, grace_period: 30, delete_emptydir_data: false}
  reboot: never
  reboot_method: kexec
  reboot_blockers:
    pods: [{selector: "app=backup,!draft", namespace: jobs}, {selector: "tier in (batch)"}]
    prometheus: [{url: "http://prometheus:9090"}]
    timeout: 30m
  windows:
    - {days: [sat, sun], from: 02:00, to: 06:00, tz: Europe/Zurich}
    - {from: "22:00", to: "24:00"}
gates:
  kubelet: {ready_for: 250ms, timeout: 10m}
  pods: {critical: false, selected: [{selector: app=ceph-mon, namespace: rook, at_least: 3}, {selector: web}]}
  http: [{url: "https://status.example/healthz", expect: 204}]
  command: [{on: "@control-plane", run: etcdctl endpoint health}]
  prometheus: [{url: "http://prometheus:9090", query: "up == 0", expect: nonempty}]
groups:
  control-plane: {role: control-plane, labels: {zone: a}}
  workers: {role: worker, strategy: {max_unavailable: 2}}
hosts:
  cp1: {address: "fd00::1", groups: [control-plane]}
  pi1:
    address: pi1.lan
    groups: [workers]
    system: aarch64-linux
    labels: {zone: b}
    privilege_password: {env: PI_PASSWORD}
    bootstrap:
      disks: [/dev/disk/by-id/nvme-XYZ]
      extra_files: ./secrets/pi1
      expect_serial: S4EV
      kexec: https://example.org/kexec.tar.gz
"""

LAYERS = (
    HEAD
    + """
defaults: {role: worker, ssh: {user: root, port: 22, jump: bastion}, labels: {zone: a, rack: r1}}
strategy: {soak: 10s, drain: {timeout: 1m, force: true}}
groups:
  cp: {role: control-plane}
  base: {ssh: {port: 1000}, strategy: {soak: 20s}}
  fast: {groups: [base], ssh: {port: 2000}, labels: {zone: b}}
  slow: {groups: [base], ssh: {port: 3000}, strategy: {drain: {timeout: 9m}}}
hosts:
  cp1: {groups: [cp]}
  ab: {groups: [fast, slow]}
  ba: {groups: [slow, fast], ssh: {jump: null}, labels: {rack: r9}, strategy: {reboot: always}}
  bastion: {groups: [cp]}
"""
)


def test_the_later_layer_wins_key_by_key() -> None:
    hosts = load(LAYERS).fleet.hosts

    assert hosts["ab"].groups == ("base", "fast", "slow")
    assert hosts["ba"].groups == ("base", "slow", "fast")
    assert (hosts["ab"].ssh.port, hosts["ba"].ssh.port) == (3000, 2000)
    assert hosts["ab"].ssh.user == "root"
    assert hosts["ab"].labels == {"zone": "b", "rack": "r1"}
    assert hosts["ba"].labels == {"zone": "b", "rack": "r9"}


def test_the_strategy_of_a_group_or_host_overrides_the_rollouts_key_by_key() -> None:
    hosts = load(LAYERS).fleet.hosts

    assert hosts["cp1"].policy.soak == 10.0
    assert (hosts["ab"].policy.soak, hosts["ab"].policy.drain.timeout, hosts["ab"].policy.drain.force) == (
        20.0,
        540.0,
        True,
    )
    assert hosts["ba"].policy.reboot is RebootPolicy.ALWAYS


def test_null_takes_back_what_a_layer_below_said() -> None:
    assert load(LAYERS).fleet.hosts["ba"].ssh.jump is None


def test_a_jump_host_that_is_in_the_inventory_does_not_jump_through_itself() -> None:
    hosts = load(LAYERS).fleet.hosts

    assert hosts["ab"].ssh.jump == "bastion"
    assert hosts["bastion"].ssh.jump is None


def test_a_jump_host_in_a_chain_keeps_the_hops_in_front_of_it() -> None:
    text = SMALL.replace("hosts:\n", "defaults: {ssh: {jump: 'me@a:22,b'}}\nhosts:\n  a: {groups: [workers]}\n")
    hosts = load(text + "  b: {groups: [workers]}\n").fleet.hosts

    assert (hosts["a"].ssh.jump, hosts["b"].ssh.jump, hosts["cp1"].ssh.jump) == (None, "me@a:22", "me@a:22,b")


def test_a_group_has_the_members_of_the_groups_that_are_part_of_it() -> None:
    groups = load(LAYERS).fleet.groups

    assert groups["base"].members == ("ab", "ba")
    assert groups["cp"].members == ("cp1", "bastion")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("../flakes/lab", "/srv/flakes/lab"),
        (".", "/srv/inventories"),
        ("./x?dir=sub", "/srv/inventories/x?dir=sub"),
        ("path:./x", "path:/srv/inventories/x"),
        ("path:/abs/x", "path:/abs/x"),
        ("/abs/x", "/abs/x"),
        ("github:me/fleet/main", "github:me/fleet/main"),
        ("git+ssh://git@example/fleet?ref=main", "git+ssh://git@example/fleet?ref=main"),
        ("fleet", "fleet"),
    ],
)
def test_a_local_flake_becomes_absolute_and_any_other_stays(written: str, meant: str) -> None:
    assert load(SMALL.replace("github:me/fleet", f'"{written}"')).fleet.flake == meant


def test_a_folder_that_nix_would_take_for_a_registry_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()

    with pytest.raises(InventoryError) as caught:
        load(SMALL.replace("github:me/fleet", "fleet"), str(tmp_path / "inventory.yaml"))

    assert caught.value.hint == "did you mean `./fleet`?"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{env: NAME}", SecretFromEnv(env="NAME")),
        ("{file: secrets/x}", SecretFromFile(file="/srv/inventories/secrets/x")),
        ("{command: [pass, show, x]}", SecretFromCommand(command=("pass", "show", "x"))),
        ("null", None),
    ],
)
def test_a_secret_is_a_reference(written: str, meant: object) -> None:
    host = load(SMALL.replace("[cp]}", f"[cp], privilege_password: {written}}}")).fleet.hosts["cp1"]

    assert host.privilege_password == meant


def test_a_kubeconfig_is_fetched_when_absent_or_asked_for() -> None:
    fetched = load(SMALL.replace("home}", "home, kubeconfig: {fetch: true}}")).fleet.cluster.kubeconfig

    assert fetched is None
    assert load(SMALL).fleet.cluster.kubeconfig is None


def test_a_controller_in_a_pod_uses_the_pods_own_account() -> None:
    found = load(SMALL.replace("home}", "home, kubeconfig: {in_cluster: true}}")).fleet.cluster.kubeconfig

    assert found == IN_CLUSTER


def test_plain_hosts_need_no_control_plane() -> None:
    fleet = load(SMALL.replace("home}", "home, distribution: none}").replace("role: control-plane", "")).fleet

    assert fleet.hosts["cp1"].role is Role.WORKER


def test_words_that_yaml_once_took_for_truth_or_time_stay_words() -> None:
    labels = load(SMALL.replace("[cp]}", "[cp], labels: {country: no, on: off}}")).fleet.hosts["cp1"].labels

    assert labels == {"country": "no", "on": "off"}


def test_an_alias_stands_for_its_anchor() -> None:
    hosts = load(SMALL.replace("[cp]}", "&g [cp]}\n  w1: {groups: *g}")).fleet.hosts

    assert hosts["w1"].groups == ("cp",)


def test_one_address_behind_two_bastions_is_two_machines() -> None:
    hosts = "".join(f"  {name}: {{address: 10.0.0.1, groups: [cp], ssh: {{jump: {name}x}}}}\n" for name in "ab")

    assert len(load(SMALL + hosts).fleet.hosts) == 3


@pytest.mark.parametrize(
    ("one", "other"), [("10.0.0.1", "10.0.0.1"), ("fd00::1", "FD00:0::1"), ("Web.lan.", "web.lan")]
)
def test_one_address_spelled_twice_is_an_error_that_names_both_lines(one: str, other: str) -> None:
    text = SMALL + f"  a: {{address: '{one}', groups: [cp]}}\n  b: {{address: '{other}', groups: [cp]}}\n"

    with pytest.raises(InventoryError, match=r"`b` has the same address .* as `a` on line 6") as caught:
        load(text)

    assert caught.value.where.endswith(":7:16")


def test_the_digest_is_that_of_the_text() -> None:
    assert load(SMALL).digest == load(SMALL).digest
    assert load(SMALL).digest != load(SMALL + "# more\n").digest


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())

    assert list(load_fleet(path).fleet.hosts) == ["cp1"]


def test_windows_line_ends_are_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(SMALL.replace("\n", "\r\n").encode())

    assert list(load_fleet(path).fleet.hosts) == ["cp1"]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="there is no file"):
        load_fleet(tmp_path / "none.yaml")


def test_a_folder_is_not_an_inventory(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="Is a directory"):
        load_fleet(tmp_path)


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(SMALL)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")

    with pytest.raises(InventoryError, match="Permission denied"):
        load_fleet(path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_name_that_no_file_can_have_is_an_error(name: str) -> None:
    with pytest.raises(InventoryError, match="cannot read"):
        load_fleet(Path(name))


def test_a_file_over_the_limit_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(InventoryError, match="larger than 10 MiB"):
        load_fleet(path)


HOSTILE = {
    "brackets": "[",
    "braces": "{a: ",
    "dashes": "- ",
    "items": "- a\n",
    "flow items": "a,",
    "keys": "a:\n",
    "questions": "? ",
    "documents": "---\n",
    "anchors": "&a ",
    "spaces": " ",
    "lines": "\n",
    "comments": "# a\n",
    "quotes": '"',
    "backslashes": '"\\',
    "words": "a ",
    "colons": ":",
    "scalars": "a: |\n  x\n",
    "letters": "x",
    "tabs": "\t",
    "wide": "\N{PILE OF POO}",
}


SECONDS = 3.0
"""CPU time a hostile megabyte may cost; what is quadratic takes minutes."""


def seconds_to_refuse(text: str) -> float:
    began = time.process_time()
    with pytest.raises(InventoryError):
        load(text)
    return time.process_time() - began


@pytest.mark.parametrize("start", ["", "[", "hosts:\n  "])
@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_megabyte_ends_soon(unit: str, start: str) -> None:
    assert seconds_to_refuse(start + unit * (1_000_000 // len(unit.encode()))) < SECONDS


@pytest.mark.parametrize("name", ["brackets", "flow items", "letters", "scalars"])
def test_ten_hostile_megabytes_end_in_seconds(name: str) -> None:
    start, unit = "[", HOSTILE[name]

    assert seconds_to_refuse(start + unit * ((LARGEST - 1) // len(unit.encode()))) < 10


@pytest.mark.parametrize(
    "line", ["passw" * 100_000, "token:" * 80_000, "secret" + " " * 500_000, "x: [" + "a: " * 150_000]
)
def test_a_hostile_line_is_quoted_soon(line: str) -> None:
    assert seconds_to_refuse(line + "\n  : [") < SECONDS


@pytest.mark.parametrize(
    ("known", "value"),
    [
        ("address", "1" * 4000 + "x:"),
        ("address", "a." * 2000 + "!"),
        ("node", "a-" * 2000),
        ("jump", "a" * 4000 + "!"),
        ("jump", "a.b@" * 1000),
        ("jump", "a," * 2000 + "!"),
        ("host_key", "ssh-rsa " + " " * 3900 + "!"),
        ("identity_file", "~" * 4000),
    ],
)
def test_a_hostile_value_is_refused_soon(known: str, value: str) -> None:
    field = f"{known}: '{value}'" if known in {"address", "node"} else f"ssh: {{{known}: '{value}'}}"

    assert seconds_to_refuse(SMALL.replace("[cp]}", f"[cp], {field}}}")) < 1


def test_a_thousand_hosts_load_in_well_under_a_second() -> None:
    lines = [
        f"  w{i}: {{address: 10.0.{i // 250}.{i % 250}, groups: [workers], system: x86_64-linux, labels: {{zone: a}}}}"
        for i in range(1000)
    ]
    began = time.process_time()

    fleet = load(SMALL + "\n".join(lines)).fleet

    assert len(fleet.hosts) == 1001
    assert time.process_time() - began < 1.0


def test_a_thousand_groups_inside_each_other_load() -> None:
    groups = "".join(f"  g{i}: {{groups: [g{i - 1}]}}\n" for i in range(1, 900))
    text = HEAD + "groups:\n  g0: {role: control-plane}\n" + groups + "hosts: {h: {groups: [g899]}}\n"

    assert len(load(text).fleet.hosts["h"].groups) == 900


def test_too_many_groups_are_refused() -> None:
    groups = "".join(f"  g{i}:\n" for i in range(1001))

    with pytest.raises(InventoryError, match="more than 1000 groups"):
        load(HEAD + "groups:\n" + groups + "hosts: {h: {groups: [g1]}}\n")

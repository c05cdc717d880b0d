"""Four ways to bring hosts to what their flake says: this product's, a shell's, pyinfra's and ansible's.

Each gets what its own manual recommends for speed. All evaluate and build once, then run the same commands for every
host: ``nix copy``, ``nix-env --set``, ``switch-to-configuration switch``. Nothing is measured here.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROFILE = "/nix/var/nix/profiles/system"
COMPETITORS = ("pyinfra==3.10.0", "ansible-core==2.19.14")
"""What is installed to compare with, in a virtual environment of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every contender is told: where the hosts are, how to log in, what they are to run."""

    hosts: Mapping[str, str]
    """Name to address; all are logged in to as root."""
    flake: str
    """As a flake reference."""
    key: Path
    known_hosts: Path
    work: Path
    """Where a contender keeps its files."""
    tools: Path
    """The folder with pyinfra's and ansible's programs."""

    @property
    def ssh_options(self) -> tuple[str, ...]:
        pairs = {
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
        }
        return ("-i", str(self.key), *(word for key, value in pairs.items() for word in ("-o", f"{key}={value}")))

    @property
    def evaluate(self) -> str:
        """Prints a line a host: name, system, derivation. One process for all of them."""
        names = " ".join(f'"{name}"' for name in self.hosts)
        top = "cs.${n}.config.system.build.toplevel"
        lines = f'map (n: "${{n}} ${{{top}.outPath}} ${{{top}.drvPath}}") [ {names} ]'
        apply = f'cs: builtins.concatStringsSep "\\n" ({lines})'
        return shlex.join(("nix", "eval", "--raw", f"{self.flake}#nixosConfigurations", "--apply", apply))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One of them, ready to be started as often as one likes."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


def contenders(site: Site, outputs_suffix: str) -> tuple[Contender, ...]:
    """All of them. ``outputs_suffix``: what this Nix wants after a derivation's name, ``^out`` or nothing."""
    build = f'nix build --no-link $(awk \'{{print $3 "{outputs_suffix}"}}\' "$plan")'
    site.work.mkdir(parents=True, exist_ok=True)
    return (
        _ours(site),
        _shell(site, build, at_once=len(site.hosts)),
        _shell(site, build, at_once=1),
        _pyinfra(site, outputs_suffix),
        _ansible(site, outputs_suffix),
    )


def _written(path: Path, text: str, *, executable: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755 if executable else 0o644)
    return path


# --- ours: with its whole protocol, that is a host lock, a way back, a dead-man timer and a confirmation -------------

OURS = """\
cluster: {{name: bench, distribution: none}}
flake: {flake}
defaults:
  ssh: {{user: root, identity_file: {key}, known_hosts: {known_hosts}}}
strategy: {{canary: 0, max_unavailable: 100%, soak: 0s}}
gates: {{kubelet: {{ready_for: 0s}}}}
groups:
  all: {{role: worker}}
hosts:
{hosts}
"""


def _ours(site: Site) -> Contender:
    hosts = "\n".join(f"  {name}: {{address: {address}, groups: [all]}}" for name, address in site.hosts.items())
    text = OURS.format(flake=site.flake, key=site.key, known_hosts=site.known_hosts, hosts=hosts)
    inventory = _written(site.work / "ours" / "inventory.yaml", text)
    program = str(Path(sys.executable).parent / "deploy")
    state = {"NIXKUBE_DEPLOY_STATE": str(site.work / "ours" / "state")}
    return Contender(name="deploy apply", argv=(program, "apply", str(inventory), "--yes"), env=state)


# --- a shell script ---------------------------------------------------------------------------------------------------

SHELL_ONE = """\
#!/bin/bash
set -euo pipefail
declare -A addresses=({addresses})
read -r name out drv <<<"$1"
host=root@${{addresses[$name]}}
nix copy --to "ssh://$host" "$out"
ssh $NIX_SSHOPTS "$host" "nix-env -p {profile} --set $out && $out/bin/switch-to-configuration switch"
"""
SHELL_ALL = """\
#!/bin/bash
set -euo pipefail
plan=$(mktemp); trap 'rm -f "$plan"' EXIT
{evaluate} >"$plan"; echo >>"$plan"
{build}
export NIX_SSHOPTS={options}
xargs -d '\\n' -P {at_once} -n 1 {one} <"$plan"
"""


def _shell(site: Site, build: str, *, at_once: int) -> Contender:
    name = "shell loop" if at_once == 1 else f"shell, xargs -P {at_once}"
    folder = site.work / f"shell-{at_once}"
    addresses = " ".join(f"[{host}]={address}" for host, address in site.hosts.items())
    one = _written(folder / "one.sh", SHELL_ONE.format(addresses=addresses, profile=PROFILE), executable=True)
    options = shlex.quote(" ".join(site.ssh_options))
    text = SHELL_ALL.format(evaluate=site.evaluate, build=build, options=options, at_once=at_once, one=one)
    return Contender(name=name, argv=(str(_written(folder / "all.sh", text, executable=True)),))


# --- pyinfra ----------------------------------------------------------------------------------------------------------

PYINFRA_INVENTORY = """\
import subprocess

_lines = subprocess.run({evaluate!r}, shell=True, check=True, capture_output=True, text=True).stdout.splitlines()
_plan = {{name: (out, drv) for name, out, drv in map(str.split, _lines)}}
subprocess.run(["nix", "build", "--no-link", *(drv + {suffix!r} for _, drv in _plan.values())], check=True)
_addresses = {addresses!r}
fleet = [
    (name, {{"ssh_hostname": _addresses[name], "ssh_user": "root", "ssh_key": {key!r}, "ssh_allow_agent": False,
             "ssh_look_for_keys": False, "ssh_known_hosts_file": {known_hosts!r}, "ssh_strict_host_key_checking": "yes",
             "toplevel": out}})
    for name, (out, _) in _plan.items()
]
"""
PYINFRA_DEPLOY = """\
from pyinfra import host, local
from pyinfra.operations import python, server


def copy():
    local.shell(f"nix copy --to ssh://root@{{host.data.ssh_hostname}} {{host.data.toplevel}}")


out = host.data.toplevel
python.call(name="Copy the closure", function=copy)
server.shell(
    name="Switch", commands=[f"nix-env -p {profile} --set {{out}} && {{out}}/bin/switch-to-configuration switch"]
)
"""


def _pyinfra(site: Site, suffix: str) -> Contender:
    folder = site.work / "pyinfra"
    inventory = PYINFRA_INVENTORY.format(
        evaluate=site.evaluate,
        suffix=suffix,
        addresses=dict(site.hosts),
        key=str(site.key),
        known_hosts=str(site.known_hosts),
    )
    files = (
        _written(folder / "inventory.py", inventory),
        _written(folder / "deploy.py", PYINFRA_DEPLOY.format(profile=PROFILE)),
    )
    argv = (str(site.tools / "pyinfra"), "-y", "--parallel", str(len(site.hosts)), *map(str, files))
    return Contender(name="pyinfra", argv=argv, env={"NIX_SSHOPTS": " ".join(site.ssh_options)})


# --- ansible ----------------------------------------------------------------------------------------------------------

ANSIBLE_CONFIG = """\
[defaults]
forks = {forks}
gathering = explicit
retry_files_enabled = False
localhost_warning = False
interpreter_python = {python}
[ssh_connection]
pipelining = True
ssh_args = -C -o ControlMaster=auto -o ControlPersist=60s {options}
control_path_dir = {sockets}
"""


def _playbook(site: Site, suffix: str) -> list[dict[str, object]]:
    """JSON, which is YAML. Evaluation and build once, then three tasks for all hosts at once."""
    here = {"delegate_to": "localhost"}
    lines = "(evaluated.stdout_lines | map('split') | list)"
    mine = f"({lines} | selectattr(0, 'equalto', inventory_hostname) | first)"
    build = (
        f"nix build --no-link {{{{ {lines} | map(attribute=2) | map('regex_replace', '$', '{suffix}') | join(' ') }}}}"
    )
    once = {**here, "run_once": True}
    shell = {"executable": "/bin/bash"}
    return [
        {
            "hosts": "all",
            "gather_facts": False,
            "vars": {"out": f"{{{{ {mine}[1] }}}}"},
            "tasks": [
                {
                    "name": "evaluate",
                    "ansible.builtin.shell": {"cmd": site.evaluate, **shell},
                    "register": "evaluated",
                    **once,
                },
                {"name": "build", "ansible.builtin.command": {"cmd": build}, **once},
                {
                    "name": "copy",
                    "ansible.builtin.command": {"cmd": "nix copy --to ssh://root@{{ ansible_host }} {{ out }}"},
                    **here,
                },
                {"name": "profile", "ansible.builtin.command": {"cmd": f"nix-env -p {PROFILE} --set {{{{ out }}}}"}},
                {
                    "name": "switch",
                    "ansible.builtin.command": {"cmd": "{{ out }}/bin/switch-to-configuration switch"},
                },
            ],
        }
    ]


def _ansible(site: Site, suffix: str) -> Contender:
    folder = site.work / "ansible"
    config = ANSIBLE_CONFIG.format(
        forks=len(site.hosts), python="/usr/bin/python3", options=shlex.join(site.ssh_options), sockets=folder / "cp"
    )
    _written(folder / "ansible.cfg", config)
    hosts = {name: {"ansible_host": address, "ansible_user": "root"} for name, address in site.hosts.items()}
    inventory = _written(folder / "hosts.json", json.dumps({"all": {"hosts": hosts}}))
    playbook = _written(folder / "play.json", json.dumps(_playbook(site, suffix), indent=2))
    env = {
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "NIX_SSHOPTS": " ".join(site.ssh_options),
    }
    argv = (str(site.tools / "ansible-playbook"), "-i", str(inventory), str(playbook))
    return Contender(name="ansible-core", argv=argv, env=env)

"""Small inventories for stories: a cluster of three, plain hosts, hosts that are each reached in another way."""

CLUSTER = """\
cluster: {name: small, distribution: k3s}
flake: ./flake
defaults:
  ssh: {user: root}
strategy: {canary: 0, max_unavailable: 100%, soak: 1s}
gates:
  kubelet: {ready_for: 1s, timeout: 5m}
groups:
  control-plane: {role: control-plane}
  workers: {role: worker}
hosts:
  cp1: {address: 10.0.0.1, groups: [control-plane], labels: {zone: a}}
  w1: {address: 10.0.0.2, groups: [workers], labels: {zone: a}}
  w2: {address: 10.0.0.3, groups: [workers], labels: {zone: b},
       bootstrap: {disks: [/dev/disk/by-id/lab-w2]}}
"""

PLAIN = """\
cluster: {name: plain, distribution: none}
flake: ./flake
defaults:
  ssh: {user: root}
strategy: {canary: 0, max_unavailable: 100%, soak: 1s}
gates:
  kubelet: {ready_for: 1s}
groups:
  web: {role: worker}
hosts:
  web1: {address: 10.0.0.1, groups: [web]}
  web2: {address: 10.0.0.2, groups: [web]}
  web3: {address: 10.0.0.3, groups: [web]}
"""

MIXED = """\
cluster: {name: mixed, distribution: k3s}
flake: ./flake
defaults:
  ssh: {user: root}
strategy: {canary: 0, max_unavailable: 100%, soak: 1s}
gates:
  kubelet: {ready_for: 1s, timeout: 5m}
groups:
  control-plane: {role: control-plane}
  workers: {role: worker}
hosts:
  cp1: {address: 10.0.0.1, groups: [control-plane]}
  rebuilt: {address: 10.0.0.2, groups: [workers], activation: nixos-rebuild}
  rs: {address: 10.0.0.3, groups: [workers], activation: deploy-rs}
  asks: {address: 10.0.0.4, groups: [workers], ssh: {user: admin}, privilege: sudo,
         privilege_password: {env: LAB_SUDO}}
  behind: {address: 10.0.0.5, groups: [workers], ssh: {jump: cp1}}
"""

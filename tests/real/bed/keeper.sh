#!/bin/sh
# Holds the bed's namespaces (the network of the lab, the controller's mounts) for as long as whoever made the bed
# lives: it reads from a pipe that only that process can close. Then everything the bed has outside goes too.
# usage: keeper.sh BED CGROUPS|-
set -u
bed=$1 cgroups=$2

remove() {
  echo 1 >"$1/cgroup.kill"
  for _ in $(seq 200); do
    find "$1" -depth -type d -exec rmdir {} \; 2>/dev/null
    [ -d "$1" ] || return 0
    sleep 0.05
  done
  echo "a control group is left: $1" >&2
  return 1
}

mount -t tmpfs -o mode=755 tmpfs "$bed/run"
mkdir -p "$bed/run/controller/nix" "$bed/run/hosts"
mount --bind "$bed/run/controller/nix" /nix
if [ "$cgroups" != - ]; then
  mkdir "$bed/run/cgroup"
  mount -t cgroup2 cgroup2 "$bed/run/cgroup"
  mkdir "$bed/run/cgroup/$cgroups"
  # What a bed whose keeper was killed, too, has left.
  for group in "$bed"/run/cgroup/nixkube-bed-*-*/; do
    maker=${group#"$bed/run/cgroup/nixkube-bed-"}
    [ -d "/proc/${maker%%-*}" ] || remove "$group"
  done
fi
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
ip addr add 10.77.0.254/24 dev br0
echo ready
cat >/dev/null

[ "$cgroups" = - ] || remove "$bed/run/cgroup/$cgroups"

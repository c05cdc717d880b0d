#!/bin/sh
# Holds the bed's namespaces (the network of the lab, the controller's mounts) for as long as whoever made the bed
# lives: it reads from a pipe that only that process can close. Then everything the bed has outside goes too.
# usage: keeper.sh BED CGROUPS|-
set -u
bed=$1 cgroups=$2

mount -t tmpfs -o mode=755 tmpfs "$bed/run"
mkdir -p "$bed/run/controller/nix" "$bed/run/hosts"
mount --bind "$bed/run/controller/nix" /nix
if [ "$cgroups" != - ]; then
  mkdir "$bed/run/cgroup"
  mount -t cgroup2 cgroup2 "$bed/run/cgroup"
  mkdir "$bed/run/cgroup/$cgroups"
fi
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
ip addr add 10.77.0.254/24 dev br0
echo ready
cat >/dev/null

[ "$cgroups" != - ] || exit 0
for group in "$bed/run/cgroup/$cgroups"/*/; do
  [ ! -e "$group/cgroup.kill" ] || echo 1 >"$group/cgroup.kill"
done
for _ in $(seq 100); do
  find "$bed/run/cgroup/$cgroups" -depth -type d -exec rmdir {} \; 2>/dev/null
  [ -d "$bed/run/cgroup/$cgroups" ] || exit 0
  sleep 0.05
done
echo "control groups of the bed are left: $cgroups" >&2
exit 1

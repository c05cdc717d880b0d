#!/bin/bash
# The mains of one host: keeps its network namespace, and boots it again when it has rebooted, or was killed.
# usage: power.sh TIER DIRECTORY NAME [CGROUP]
set -u
tier=$1 directory=$2 name=$3 cgroup=${4:-}
here=$(dirname "$0")

[ -z "$cgroup" ] || { mkdir -p "$cgroup" && echo $$ >"$cgroup/cgroup.procs"; }
spaces="--mount --uts --ipc --pid --propagation private"
[ "$tier" != 2 ] || spaces="$spaces --cgroup"
trap 'exit 0' TERM
while :; do
  while [ -e "$directory/off" ]; do sleep 0.05; done
  # shellcheck disable=SC2086
  setpriv --pdeathsig KILL unshare $spaces --fork --kill-child /bin/bash "$here/boot$tier.sh" "$directory" "$name"
  code=$?
  # reboot(2) in a pid namespace ends its first process by SIGHUP, a power-off by SIGINT.
  echo "$(date +%T.%N) ended with $code" >>"$directory/power.log"
  [ "$code" != 130 ] || : >"$directory/off"
  [ "$code" = 129 ] || [ "$code" = 130 ] || [ "$code" = 137 ] || { echo "cannot boot: $code" >"$directory/broken"; exit 1; }
  sleep "$(cat "$directory/boot-delay" 2>/dev/null || echo 0.2)"
done

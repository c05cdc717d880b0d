#!/bin/bash
# The mains of one host: keeps its network namespace, and boots it again when it has rebooted, or was killed.
# usage: power.sh TIER DIRECTORY NAME [CGROUP]
set -u
tier=$1 directory=$2 name=$3 cgroup=${4:-}
here=$(dirname "$0")

[ -z "$cgroup" ] || mkdir -p "$cgroup"
while :; do
  while [ -e "$directory/off" ]; do sleep 0.05; done
  setpriv --pdeathsig KILL unshare --mount --uts --ipc --pid --propagation private --fork --kill-child \
    /bin/bash "$here/boot$tier.sh" "$directory" "$name" "$cgroup"
  code=$?
  # reboot(2) in a pid namespace ends its first process by SIGHUP, a power-off by SIGINT.
  echo "$(date +%T.%N) ended with $code" >>"$directory/power.log"
  case $code in
  129) ;;
  130) : >"$directory/off" ;;
  *) rm "$directory/cut" 2>/dev/null || { echo "does not boot: $code" && exit 1; } ;;
  esac
  sleep "$(cat "$directory/boot-delay")"
done

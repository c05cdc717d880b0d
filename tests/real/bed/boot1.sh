#!/bin/bash
# Process 1 of a host of tier 1: sshd, and stand-ins where tier 2 has systemd.
# usage: boot1.sh DIRECTORY NAME
set -eu
directory=$1 name=$2
here=$(cd "$(dirname "$0")" && pwd)
[ "$$" = 1 ] || { echo "boot1.sh must be the first process of a pid namespace" >&2; exit 9; }

. "$here/root.sh"
for program in "$here"/stand-ins/*; do
  target=$new/usr/bin/${program##*/}
  [ -e "$target" ] || : >"$target"
  mount --bind "$program" "$target"
done
[ ! -e "$directory/daemon" ] || : >"$new/run/has-daemon"
enter
mkdir -p /run/sshd /run/units /var/log/units /var/empty
readlink /proc/self/ns/pid >/run/private-pid-namespace
. /run/scripts/stage2.sh
umount /run/scripts
systemctl start-wanted >>/var/log/units/boot.log 2>&1 </dev/null
[ ! -e /run/has-daemon ] || nix-daemon >>/var/log/nix-daemon.log 2>&1 </dev/null &

trap 'exit 0' TERM
while :; do
  /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config >>/var/log/sshd.log 2>&1 </dev/null &
  # As process 1, bash also reaps whatever lost its parent.
  wait $! || sleep 0.1
done

#!/bin/bash
# Process 1 of a host of tier 2: systemd, in a control group of its own that it takes for the root of them all.
# usage: boot2.sh DIRECTORY NAME CGROUP
set -eu
directory=$1 name=$2 cgroup=$3
here=$(cd "$(dirname "$0")" && pwd)
[ "$$" = 1 ] || { echo "boot2.sh must be the first process of a pid namespace" >&2; exit 9; }

if [ -n "$cgroup" ]; then
  echo 0 >"$cgroup/cgroup.procs"
  exec unshare --cgroup /bin/bash "$here/boot2.sh" "$directory" "$name" ""
fi
. "$here/root.sh"
mount --bind "$directory/units" "$new/etc/systemd/system"
mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
enter
mkdir -p /var/log/journal
. /run/scripts/stage2.sh
umount /run/scripts
rmdir /run/scripts
exec env -i container=bed LANG=C.UTF-8 "PATH=$PATH" /lib/systemd/systemd systemd.show_status=0

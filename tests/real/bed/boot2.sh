#!/bin/bash
# Process 1 of a host of tier 2: the machine's own file system under a layer of the host's, with a /nix, /etc, /var and
# /run of its own, then the machine's systemd.
# usage: boot2.sh DIRECTORY NAME CGROUP
set -eu
directory=$1 name=$2 cgroup=$3
here=$(cd "$(dirname "$0")" && pwd)
[ "$$" = 1 ] || { echo "boot2.sh must be the first process of a pid namespace" >&2; exit 9; }

if [ -n "$cgroup" ]; then
  echo 0 >"$cgroup/cgroup.procs"
  exec unshare --cgroup /bin/bash "$here/boot2.sh" "$directory" "$name" ""
fi
mount --make-rprivate /
new=$directory/root.new
mkdir -p "$new" "$directory/root.layer" "$directory/root.work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$directory/root.layer,workdir=$directory/root.work" "$new"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$directory/etc,workdir=$directory/etc.work" "$new/etc"
mount --bind "$directory/units" "$new/etc/systemd/system"
mkdir -p "$new/nix"
for each in nix boot var home root; do mount --bind "$directory/$each" "$new/$each"; done
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
mount -t tmpfs -o mode=755,size=64m tmpfs "$new/run"
mount -t tmpfs -o mode=1777,size=256m tmpfs "$new/tmp"
mount -t tmpfs -o mode=755,size=1m tmpfs "$new/dev"
for node in null zero full random urandom tty; do
  touch "$new/dev/$node"
  mount --bind "/dev/$node" "$new/dev/$node"
done
mkdir "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$new/dev/pts"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$new/dev/shm"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
touch "$new/dev/console"
mkdir "$new/run/scripts"
mount --bind "$here" "$new/run/scripts"
# A host has no business in the checkout, wherever that lies.
checkout=$(cd "$here/../../.." && pwd)
[ ! -d "$new$checkout" ] || mount -t tmpfs -o mode=755,size=64k tmpfs "$new$checkout"

mkdir "$new/run/old"
cd "$new"
pivot_root . run/old
umount -l /run/old
rmdir /run/old
cd /
hostname "$name"
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
ip link set lo up
mkdir -p /var/log/journal /var/lib /var/tmp
. /run/scripts/stage2.sh
umount /run/scripts
rmdir /run/scripts
exec env -i container=bed LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd systemd.show_status=0

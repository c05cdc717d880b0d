#!/bin/bash
# Process 1 of a host of tier 1: the machine's programs, but a /nix, /etc, /var, /home and /run of its own; sshd; and
# stand-ins where tier 2 has systemd.
# usage: boot1.sh DIRECTORY NAME
set -eu
directory=$1 name=$2
here=$(cd "$(dirname "$0")" && pwd)
[ "$$" = 1 ] || { echo "boot1.sh must be the first process of a pid namespace" >&2; exit 9; }

mount --make-rprivate /
mount -t tmpfs -o mode=755,size=64m tmpfs /run
mkdir /run/host /run/scripts
mount --rbind "$directory" /run/host
mount --bind "$here" /run/scripts
cd /run/host
mount -t overlay overlay -o "lowerdir=/etc,upperdir=/run/host/etc,workdir=/run/host/etc.work" /etc
mount -t overlay overlay -o "lowerdir=/run/scripts/stand-ins:/usr/bin" /usr/bin
for each in nix boot; do mount --bind /run/host/$each /$each; done
for each in var home root; do mount --bind /run/host/$each /$each; done
mount -t proc proc /proc
mount -t tmpfs -o mode=1777,size=256m tmpfs /tmp
hostname "$name"
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
readlink /proc/self/ns/pid >/run/private-pid-namespace
mkdir -p /run/sshd /run/units /var/log/units /var/empty /var/lib /var/tmp
ip link set lo up

. /run/scripts/stage2.sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
cd /
/usr/bin/systemctl start-wanted >>/var/log/units/boot.log 2>&1 </dev/null

[ ! -e /run/host/daemon ] || /usr/bin/nix-daemon >>/var/log/nix-daemon.log 2>&1 </dev/null &

trap 'exit 0' TERM
while :; do
  /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config >>/var/log/sshd.log 2>&1 </dev/null &
  # As process 1, bash also reaps whatever lost its parent.
  wait $! || sleep 0.1
done

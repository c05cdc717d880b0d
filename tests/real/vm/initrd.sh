#!/bin/busybox sh
# Process 1 of the initrd, as NixOS's stage 1: finds the root file system and the system that the kernel's line names.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in /modules/*.ko; do $b insmod "$module"; done
init=
for word in $($b cat /proc/cmdline); do
  case $word in init=*) init=${word#init=} ;; esac
done
for _ in $($b seq 100); do
  [ ! -b /dev/vda2 ] || break
  $b sleep 0.1
done
$b mount -t ext4 /dev/vda2 /root || $b reboot -f
$b umount /proc /sys
$b mount --move /dev /root/dev
exec $b switch_root /root "$init"

#!/bin/sh
# What NixOS's stage 2 does: the system that the boot loader has chosen activates itself, then starts systemd.
system=@out@
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
ln -s $system /run/booted-system
. $system/stage2
$system/activate
exec /lib/systemd/systemd

#!/bin/sh
# Makes a disk from a root tree and an EFI tree, without loop mounts. Runs inside the tree of tools.
# usage: image.sh WORK   (WORK/root, WORK/esp -> WORK/disk.qcow2, WORK/vars.qcow2)
set -eu
cd "$1"
rm -f esp.img root.img disk.img
truncate -s 256M esp.img
mkfs.vfat -F 32 -n ESP esp.img >/dev/null
mcopy -s -i esp.img esp/* ::/
truncate -s 1500M root.img
mke2fs -q -t ext4 -m 0 -L root -d root root.img
truncate -s 1758M disk.img
printf 'label: gpt\nstart=2048,size=524288,type=U\nstart=526336,type=L\n' | sfdisk -q disk.img
dd if=esp.img of=disk.img bs=1M seek=1 conv=notrunc,sparse status=none
dd if=root.img of=disk.img bs=1M seek=257 conv=notrunc,sparse status=none
qemu-img convert -O qcow2 disk.img disk.qcow2
qemu-img convert -O qcow2 /usr/share/OVMF/OVMF_VARS_4M.fd vars.qcow2
rm -f esp.img root.img disk.img

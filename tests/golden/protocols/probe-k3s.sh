echo; echo @machine
uname -m 2>/dev/null
echo; echo @generation
readlink /nix/var/nix/profiles/system 2>/dev/null
echo; echo @specialisations
readlink -f /nix/var/nix/profiles/system/specialisation/* 2>/dev/null
echo; echo @uid
id -u 2>/dev/null
echo; echo @disk
df -Pk /nix/store /boot 2>/dev/null
echo; echo @loader.systemd-boot
test -e /boot/loader/loader.conf && echo yes || test -e /sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f && echo yes 2>/dev/null
echo; echo @loader.grub
test -d /boot/grub && echo yes 2>/dev/null
echo; echo @loader.generic-extlinux
test -e /boot/extlinux/extlinux.conf && echo yes 2>/dev/null
echo; echo @failed_units
systemctl list-units --failed --plain --no-legend --no-pager 2>/dev/null
echo; echo @activations
ls -d /run/systemd/transient/nixkube-deploy-* >/dev/null 2>&1 || ! test -d /run/systemd/transient && systemctl list-units --all 'nixkube-deploy-*' --plain --no-legend --no-pager 2>/dev/null
echo; echo @etcd
test -e /etc/systemd/system/etcd.service && echo unit 2>/dev/null
echo; echo @there
test -e /run/current-system/kernel && echo 2
test -e /run/current-system/initrd && echo 3
test -e /run/current-system/kernel-modules && echo 4
test -e /run/current-system/systemd && echo 5
test -e /run/current-system/etc/systemd/system/dbus.service && echo 6
test -e /run/current-system/etc/systemd/system/k3s.service && echo 7
test -e /run/current-system/etc/systemd/system/k3s.service.d/overrides.conf && echo 8
test -e /run/booted-system/kernel && echo 10
test -e /run/booted-system/initrd && echo 11
test -e /run/booted-system/kernel-modules && echo 12
test -e /run/booted-system/systemd && echo 13
test -e /run/booted-system/etc/systemd/system/dbus.service && echo 14
test -e /run/booted-system/etc/systemd/system/k3s.service && echo 15
test -e /run/booted-system/etc/systemd/system/k3s.service.d/overrides.conf && echo 16
echo; echo @links
readlink -m /nix/var/nix/profiles/system /run/current-system /run/current-system/kernel /run/current-system/initrd /run/current-system/kernel-modules /run/current-system/systemd /run/current-system/etc/systemd/system/dbus.service /run/current-system/etc/systemd/system/k3s.service /run/current-system/etc/systemd/system/k3s.service.d/overrides.conf /run/booted-system /run/booted-system/kernel /run/booted-system/initrd /run/booted-system/kernel-modules /run/booted-system/systemd /run/booted-system/etc/systemd/system/dbus.service /run/booted-system/etc/systemd/system/k3s.service /run/booted-system/etc/systemd/system/k3s.service.d/overrides.conf 2>/dev/null
echo; echo @files
head -v -n 100000 /etc/os-release /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/osrelease /proc/sys/kernel/hostname /sys/class/dmi/id/product_serial /run/nixkube-deploy.test /run/current-system/kernel-params /run/current-system/switch-inhibitors /run/current-system/init-interface-version /run/booted-system/kernel-params /run/booted-system/switch-inhibitors /run/booted-system/init-interface-version 2>/dev/null
echo; echo @end

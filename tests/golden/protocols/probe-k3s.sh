echo; echo @os_id
cat /etc/os-release 2>/dev/null
echo; echo @variant
cat /etc/os-release 2>/dev/null
echo; echo @machine_id
cat /etc/machine-id 2>/dev/null
echo; echo @boot_id
cat /proc/sys/kernel/random/boot_id 2>/dev/null
echo; echo @machine
uname -m 2>/dev/null
echo; echo @kernel_release
uname -r 2>/dev/null
echo; echo @hostname
cat /proc/sys/kernel/hostname 2>/dev/null
echo; echo @serial
cat /sys/class/dmi/id/product_serial 2>/dev/null
echo; echo @profile
readlink -f /nix/var/nix/profiles/system 2>/dev/null
echo; echo @generation
readlink /nix/var/nix/profiles/system 2>/dev/null
echo; echo @specialisations
readlink -f /nix/var/nix/profiles/system/specialisation/* 2>/dev/null
echo; echo @tested
cat /run/nixkube-deploy.test 2>/dev/null
echo; echo @uid
id -u 2>/dev/null
echo; echo @disk.store
df -Pk /nix/store 2>/dev/null
echo; echo @disk.boot
df -Pk /boot 2>/dev/null
echo; echo @loader.systemd-boot
test -e /boot/loader/loader.conf && echo yes 2>/dev/null
echo; echo @loader.grub
test -d /boot/grub && echo yes 2>/dev/null
echo; echo @loader.generic-extlinux
test -e /boot/extlinux/extlinux.conf && echo yes 2>/dev/null
echo; echo @failed_units
systemctl list-units --failed --plain --no-legend --no-pager 2>/dev/null
echo; echo @activations
systemctl list-units --all 'nixkube-deploy-*' --plain --no-legend --no-pager 2>/dev/null
echo; echo @current
readlink -f /run/current-system 2>/dev/null
echo; echo @current.kernel
test -e /run/current-system/kernel && readlink -f /run/current-system/kernel 2>/dev/null
echo; echo @current.initrd
test -e /run/current-system/initrd && readlink -f /run/current-system/initrd 2>/dev/null
echo; echo @current.kernel_modules
test -e /run/current-system/kernel-modules && readlink -f /run/current-system/kernel-modules 2>/dev/null
echo; echo @current.systemd
test -e /run/current-system/systemd && readlink -f /run/current-system/systemd 2>/dev/null
echo; echo @current.kernel_params
cat /run/current-system/kernel-params 2>/dev/null
echo; echo @current.inhibitors
cat /run/current-system/switch-inhibitors 2>/dev/null
echo; echo @current.init_interface
cat /run/current-system/init-interface-version 2>/dev/null
echo; echo @current.dbus
test -e /run/current-system/etc/systemd/system/dbus.service && readlink -f /run/current-system/etc/systemd/system/dbus.service 2>/dev/null
echo; echo @current.units.k3s.service
test -e /run/current-system/etc/systemd/system/k3s.service && readlink -f /run/current-system/etc/systemd/system/k3s.service 2>/dev/null
echo; echo @current.units.k3s.service.d/overrides.conf
test -e /run/current-system/etc/systemd/system/k3s.service.d/overrides.conf && readlink -f /run/current-system/etc/systemd/system/k3s.service.d/overrides.conf 2>/dev/null
echo; echo @booted
readlink -f /run/booted-system 2>/dev/null
echo; echo @booted.kernel
test -e /run/booted-system/kernel && readlink -f /run/booted-system/kernel 2>/dev/null
echo; echo @booted.initrd
test -e /run/booted-system/initrd && readlink -f /run/booted-system/initrd 2>/dev/null
echo; echo @booted.kernel_modules
test -e /run/booted-system/kernel-modules && readlink -f /run/booted-system/kernel-modules 2>/dev/null
echo; echo @booted.systemd
test -e /run/booted-system/systemd && readlink -f /run/booted-system/systemd 2>/dev/null
echo; echo @booted.kernel_params
cat /run/booted-system/kernel-params 2>/dev/null
echo; echo @booted.inhibitors
cat /run/booted-system/switch-inhibitors 2>/dev/null
echo; echo @booted.init_interface
cat /run/booted-system/init-interface-version 2>/dev/null
echo; echo @booted.dbus
test -e /run/booted-system/etc/systemd/system/dbus.service && readlink -f /run/booted-system/etc/systemd/system/dbus.service 2>/dev/null
echo; echo @booted.units.k3s.service
test -e /run/booted-system/etc/systemd/system/k3s.service && readlink -f /run/booted-system/etc/systemd/system/k3s.service 2>/dev/null
echo; echo @booted.units.k3s.service.d/overrides.conf
test -e /run/booted-system/etc/systemd/system/k3s.service.d/overrides.conf && readlink -f /run/booted-system/etc/systemd/system/k3s.service.d/overrides.conf 2>/dev/null
echo; echo @end

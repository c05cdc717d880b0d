#!@shell@
# Makes this system the running one: /etc/static, its units and /run/current-system. The boot runs it too.
set -eu
system=@out@
units=/run/systemd/system

# Units of this system that systemd is to know; those that every machine has already are left to the machine.
installed() {
  while read -r unit; do
    case $unit in
    '' | dbus.* | ssh.* | sshd.* | systemd-* | nix-daemon.*) ;;
    *) echo "$unit" ;;
    esac
  done <"$1/managed-units"
}

mkdir -p $units/multi-user.target.wants /run/nixos
ln -sfn $system/etc /etc/static
for link in "$units"/*; do
  case $(readlink "$link" || :) in
  /nix/store/*) rm -f "$link" "$units/multi-user.target.wants/${link##*/}" ;;
  esac
done
installed $system | while read -r unit; do
  ln -sfn "$(readlink -f $system/etc/systemd/system/"$unit")" "$units/$unit"
  ln -sfn "../$unit" "$units/multi-user.target.wants/$unit"
done
ln -sfn $system /run/current-system

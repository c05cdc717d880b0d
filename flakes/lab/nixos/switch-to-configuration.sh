#!@shell@
# switch-to-configuration of a system without nixpkgs: the verbs, the lock, the order of steps, the texts and the exit
# codes of NixOS's own. What goes wrong in it is written in the system's configuration (`activation`), so a fault is a
# property of one closure.
set -u
system=@out@
profile=/nix/var/nix/profiles/system
lock=/run/nixos/switch-to-configuration.lock
verb=${1:-}

usage() {
  echo "Usage: $0 [check|switch|boot|test|dry-activate]" >&2
  exit 1
}

case $verb in
check | switch | boot | test | dry-activate) [ $# = 1 ] || usage ;;
*) usage ;;
esac
[ "$(id -u)" = 0 ] || { echo "$0 must be run as the root user" >&2; exit 1; }
. $system/activation
mkdir -p /run/nixos

# --- what changes ----------------------------------------------------------------------------------------------------

units_of() {
  while read -r unit; do
    case $unit in
    '' | dbus.* | ssh.* | sshd.* | systemd-* | nix-daemon.*) ;;
    *) echo "$unit" ;;
    esac
  done <"$1/managed-units" 2>/dev/null
}

file_of() { readlink -f "$1/etc/systemd/system/$2"; }

has() { case " $1 " in *" $2 "*) true ;; *) false ;; esac; }

compare() {
  current=$(readlink -f /run/current-system) || current=
  old=$(units_of "$current" | tr '\n' ' ')
  new=$(units_of $system | tr '\n' ' ')
  stopping='' restarting='' starting=''
  for unit in $old; do has "$new" "$unit" || stopping="$stopping $unit"; done
  for unit in $new; do
    if ! has "$old" "$unit"; then
      starting="$starting $unit"
    elif [ "$(file_of "$current" "$unit")" != "$(file_of $system "$unit")" ]; then
      restarting="$restarting $unit"
    fi
  done
}

tell() { [ -z "$2" ] || echo "$1 the following units:$(echo "$2" | sed 's/ \([^ ]*\)/, \1/g; s/^,//')" >&2; }

# --- steps -----------------------------------------------------------------------------------------------------------

inhibited() {
  was=$(cat /run/current-system/switch-inhibitors 2>/dev/null) || was=
  is=$(cat $system/switch-inhibitors)
  echo "Checking switch inhibitors..." >&2
  [ "$was" != "$is" ] || return 1
  {
    echo "There are changes to critical components of the system:"
    echo
    echo "${was:-(none)} -> ${is:-(none)}"
    echo
    echo "Switching into this system is not recommended."
    echo "You probably want to run 'nixos-rebuild boot' and reboot your system instead."
    echo
    echo "If you really want to switch into this configuration directly, then"
    echo "you can set NIXOS_NO_CHECK=1 to ignore pre-switch checks."
    echo
    echo "WARNING: doing so might cause the switch to fail or your system to become unstable."
    echo
    echo "Pre-switch check 'switchInhibitors' failed"
  } >&2
}

check() {
  [ "${NIXOS_NO_CHECK:-}" != 1 ] || return 0
  if inhibited || [ "$action_check" != 0 ]; then
    echo "Pre-switch checks failed" >&2
    return 1
  fi
}

# systemd-boot: an entry a generation, kernels and initrds copied to /boot once each, the profile's as the default.
install_loader() {
  [ "$action_loader" = 0 ] || return 1
  mkdir -p /boot/loader/entries /boot/EFI/nixos || return 1
  for link in "$profile"-*-link; do
    to=$(readlink -f "$link") || continue
    number=${link#"$profile"-} number=${number%-link}
    for part in kernel initrd; do
      from=$(readlink -f "$to/$part")
      copy=${from#/nix/store/}
      copy=/boot/EFI/nixos/$(echo "$copy" | tr / -).efi
      [ -e "$copy" ] || { cp "$from" "$copy.tmp" && mv "$copy.tmp" "$copy"; } || { rm -f "$copy.tmp"; return 1; }
    done
    entry=/boot/loader/entries/nixos-generation-$number.conf
    printf 'title NixOS\nversion Generation %s\noptions init=%s/init\n' "$number" "$to" >"$entry.tmp" || return 1
    mv "$entry.tmp" "$entry" || return 1
  done
  for entry in /boot/loader/entries/nixos-generation-*.conf; do
    number=${entry##*-} number=${number%.conf}
    [ -e "$profile-$number-link" ] || rm -f "$entry"
  done
  number=$(readlink "$profile") number=${number#system-} number=${number%-link}
  printf 'timeout 5\ndefault nixos-generation-%s.conf\n' "$number" >/boot/loader/loader.conf.tmp || return 1
  mv /boot/loader/loader.conf.tmp /boot/loader/loader.conf
}

# --- the verbs -------------------------------------------------------------------------------------------------------

if [ "$verb" = dry-activate ]; then
  compare
  echo "would activate the configuration..." >&2
  tell "would stop" "$stopping"
  tell "would restart" "$restarting"
  tell "would start" "$starting"
  exit 0
fi

exec 9>>$lock
flock -n 9 || { echo "Could not acquire lock" >&2; exit 11; }

case $verb in
check | switch | test) check || exit 1 ;;
esac
[ "$verb" != check ] || exit 0

case $verb in
boot | switch) install_loader || { echo "Failed to install bootloader" >&2; exit 1; } ;;
esac
[ "$verb" != boot ] || exit 0

if [ -e /run/current-system/init-interface-version ] &&
  [ "$(cat /run/current-system/init-interface-version)" != "$(cat $system/init-interface-version)" ]; then
  {
    echo "Warning: the new NixOS configuration has an 'init' that is incompatible with the current one."
    echo "The new configuration won't take effect until you reboot the system."
  } >&2
  exit 100
fi

compare
code=0
[ -z "$action_before" ] || sh -c "$action_before" 9>&-
if [ -n "$stopping" ]; then
  tell stopping "$stopping"
  # shellcheck disable=SC2086
  systemctl stop $stopping 9>&-
fi
echo "activating the configuration..." >&2
$system/activate 9>&- || code=2
if [ "$action_exit" = 2 ]; then
  echo "Activation script snippet 'etc' failed (1)" >&2
  code=2
fi
systemctl daemon-reload 9>&- || code=3
[ -z "$action_run" ] || sh -c "$action_run" 9>&-
failed=
for how in restart start; do
  case $how in
  restart) which=$restarting ;;
  start) which=$starting ;;
  esac
  [ -n "$which" ] || continue
  tell "${how}ing" "$which"
  # shellcheck disable=SC2086
  systemctl $how $which 9>&- || :
done
for unit in $restarting $starting; do
  [ "$(systemctl is-failed "$unit" 9>&-)" != failed ] || failed="$failed $unit"
done
if [ -n "$failed" ]; then
  echo "warning: the following units failed:$(echo "$failed" | sed 's/ \([^ ]*\)/, \1/g; s/^,//')" >&2
  code=4
fi
case $action_exit in
0 | 2) ;;
*) code=$action_exit ;;
esac
exit "$code"

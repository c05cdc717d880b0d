# What NixOS's stage 2 does, sourced by a host's boot: the boot loader's default entry (else the profile) decides which
# system has booted, and that system activates itself.
chosen=
if [ -e /boot/loader/loader.conf ]; then
  while read -r key value _; do
    [ "$key" != default ] || chosen=${value#nixos-generation-}
  done </boot/loader/loader.conf
  chosen=/nix/var/nix/profiles/system-${chosen%.conf}-link
fi
[ -e "$chosen" ] || chosen=/nix/var/nix/profiles/system
if [ -e "$chosen" ]; then
  chosen=$(readlink -f "$chosen")
  ln -sfn "$chosen" /run/booted-system
  "$chosen/activate"
fi

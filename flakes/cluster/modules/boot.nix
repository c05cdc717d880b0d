# systemd-boot wherever there is UEFI: deploy tries a new kernel there once before it becomes the default.
{ config, lib, ... }:
let
  # What a Raspberry Pi starts from instead; nixos-hardware switches it on.
  isUefi = !config.boot.loader.generic-extlinux-compatible.enable;
in
{
  boot.loader = {
    systemd-boot = {
      enable = lib.mkDefault isUefi;
      # /boot is small, and every generation with a new kernel takes some of it.
      configurationLimit = lib.mkDefault 10;
    };
    efi.canTouchEfiVariables = lib.mkDefault isUefi;
    grub.enable = lib.mkDefault false;
  };
}

# cp1: a machine with one disk and UEFI.
{ inputs, ... }:
{
  imports = [
    inputs.nixos-hardware.nixosModules.common-cpu-intel-cpu-only
    inputs.nixos-hardware.nixosModules.common-pc-ssd
    ../disks/single.nix
  ];

  nixpkgs.hostPlatform = "x86_64-linux";

  cluster = {
    role = "control-plane";
    address = "203.0.113.11";
    disk = "/dev/disk/by-id/REPLACE-cp1";
  };

  # What the first kernel needs to find the disk; `nixos-generate-config` on the machine knows better.
  boot.initrd.availableKernelModules = [
    "ahci"
    "nvme"
    "sd_mod"
    "usb_storage"
    "xhci_pci"
  ];
}

# pi1: a Raspberry Pi 4, started from the card it was written to.
{ inputs, ... }:
{
  imports = [
    inputs.nixos-hardware.nixosModules.raspberry-pi-4
    ../disks/sd-card.nix
  ];

  nixpkgs.hostPlatform = "aarch64-linux";

  cluster = {
    role = "worker";
    address = "203.0.113.22";
  };

  # The firmware leaves the memory controller group off; the kubelet does not run without it.
  boot.kernelParams = [
    "cgroup_enable=memory"
    "cgroup_memory=1"
  ];
}

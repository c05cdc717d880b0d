# One disk for everything: an EFI partition, the rest ext4. `deploy bootstrap` wipes the disk named here.
{ config, lib, ... }:
{
  options.cluster.disk = lib.mkOption {
    type = lib.types.str;
    example = "/dev/disk/by-id/nvme-XYZ";
    description = "The disk, by a name that stays: /dev/disk/by-id/...";
  };

  config.disko.devices.disk.main = {
    type = "disk";
    device = config.cluster.disk;
    content = {
      type = "gpt";
      partitions = {
        ESP = {
          type = "EF00";
          size = "1G"; # several kernels side by side
          content = {
            type = "filesystem";
            format = "vfat";
            mountpoint = "/boot";
            mountOptions = [ "umask=0077" ];
          };
        };
        root = {
          size = "100%";
          content = {
            type = "filesystem";
            format = "ext4";
            mountpoint = "/";
          };
        };
      };
    };
  };
}

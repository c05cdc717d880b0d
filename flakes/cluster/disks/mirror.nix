# Two disks that hold the same: either may die. The second EFI partition is a spare, filled by hand after a failure.
{ config, lib, ... }:
let
  member = device: {
    type = "disk";
    inherit device;
    content = {
      type = "gpt";
      partitions = {
        ESP = {
          type = "EF00";
          size = "1G";
          content = {
            type = "filesystem";
            format = "vfat";
            mountpoint = if device == builtins.head config.cluster.disks then "/boot" else "/boot-spare";
            mountOptions = [
              "umask=0077"
              "nofail"
            ];
          };
        };
        root = {
          size = "100%";
          content = {
            type = "mdraid";
            name = "root";
          };
        };
      };
    };
  };
in
{
  options.cluster.disks = lib.mkOption {
    type = lib.types.listOf lib.types.str;
    description = "Both disks, by names that stay: /dev/disk/by-id/...";
  };

  config = {
    assertions = [
      {
        assertion = builtins.length config.cluster.disks == 2;
        message = "A mirror has two disks: cluster.disks names ${toString (builtins.length config.cluster.disks)}.";
      }
    ];
    boot.swraid.enable = true;
    disko.devices = {
      disk = lib.listToAttrs (
        lib.imap0 (number: device: lib.nameValuePair "mirror${toString number}" (member device)) config.cluster.disks
      );
      mdadm.root = {
        type = "mdadm";
        level = 1;
        content = {
          type = "filesystem";
          format = "ext4";
          mountpoint = "/";
        };
      };
    };
  };
}

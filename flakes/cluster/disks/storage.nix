# A second disk for the volumes of Longhorn or a local provisioner. Ceph wants its disks raw: name none of them here.
{ config, lib, ... }:
{
  options.cluster.storage = {
    disk = lib.mkOption {
      type = lib.types.str;
      description = "The disk, by a name that stays: /dev/disk/by-id/...";
    };
    mountpoint = lib.mkOption {
      type = lib.types.str;
      default = "/var/lib/longhorn";
      description = "Where it is mounted.";
    };
  };

  config.disko.devices.disk.storage = {
    type = "disk";
    device = config.cluster.storage.disk;
    content = {
      type = "gpt";
      partitions.data = {
        size = "100%";
        content = {
          type = "filesystem";
          format = "xfs";
          mountpoint = config.cluster.storage.mountpoint;
        };
      };
    };
  };
}

# What Rook and Ceph need of a host. Their CSI pods want the modules' folder, too: see README.md.
{
  config,
  lib,
  pkgs,
  ...
}:
{
  config = lib.mkIf config.cluster.rook.enable {
    boot.kernelModules = [
      "rbd"
      "ceph"
    ];
    # OSDs on encrypted or shared devices are logical volumes, and do not start again without these.
    boot.initrd.kernelModules = [ "dm_mod" ];
    services.lvm.enable = true;
    environment.systemPackages = [ pkgs.lvm2 ];
  };
}

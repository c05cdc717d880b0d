# What Longhorn needs of a host: an iSCSI initiator, NFS for shared volumes, and its programs where it looks for them.
{
  config,
  lib,
  pkgs,
  ...
}:
{
  config = lib.mkIf config.cluster.longhorn.enable {
    boot.kernelModules = [
      "iscsi_tcp"
      "dm_crypt"
    ];
    boot.supportedFilesystems = [ "nfs" ];

    services.openiscsi = {
      enable = true;
      name = "iqn.2016-04.com.open-iscsi:${config.networking.hostName}";
    };
    # NFS wants it for locks.
    services.rpcbind.enable = true;

    environment.systemPackages = [
      pkgs.nfs-utils
      pkgs.openiscsi
    ];
    # Longhorn enters the host's namespaces and looks for iscsiadm there by an ordinary PATH.
    systemd.tmpfiles.rules = [ "L+ /usr/local/bin - - - - /run/current-system/sw/bin/" ];
  };
}

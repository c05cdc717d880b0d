# The components of services.kubernetes as units of their own. Its easyCerts know one control-plane host only.
{ config, lib, ... }:
let
  inherit (config) cluster;
  isControlPlane = cluster.role == "control-plane";
  cniFolder = "/var/lib/cni/net.d";
in
{
  config = lib.mkIf (cluster.distribution == "kubernetes") {
    services.kubernetes = {
      roles = if isControlPlane then [ "master" ] else [ "node" ];
      masterAddress = cluster.apiAddress;
      apiserverAddress = "https://${cluster.apiAddress}:6443";
      easyCerts = true;
      apiserver = lib.mkIf isControlPlane {
        securePort = 6443;
        advertiseAddress = cluster.apiAddress;
        allowPrivileged = true; # storage and network agents are privileged pods
      };
      kubelet = {
        # Without this it is the FQDN as soon as networking.domain is set, and a Node nobody asked for appears.
        hostname = config.networking.hostName;
        # Cilium writes its own configuration; the default is a read-only folder in the store.
        cni.configDir = lib.mkIf cluster.cilium.enable cniFolder;
        extraConfig = lib.mkIf cluster.gracefulShutdown.enable {
          shutdownGracePeriod = "${toString cluster.gracefulShutdown.seconds}s";
          shutdownGracePeriodCriticalPods = "${toString cluster.gracefulShutdown.criticalSeconds}s";
        };
      };
      flannel.enable = lib.mkIf cluster.cilium.enable false;
    };

    systemd.tmpfiles.rules = lib.mkIf cluster.cilium.enable [ "d ${cniFolder} 0755 root root -" ];
  };
}

# k3s: servers with embedded etcd, and agents. The unit is k3s.service for both.
{ config, lib, ... }:
let
  inherit (config) cluster;
  isServer = cluster.role == "control-plane";
  isFirst = config.networking.hostName == cluster.firstHost;
in
{
  config = lib.mkIf (cluster.distribution == "k3s") {
    services.k3s = {
      enable = true;
      role = if isServer then "server" else "agent";
      # Only the first server begins a cluster; a server address there would make it wait for itself.
      clusterInit = isServer && isFirst;
      serverAddr = lib.mkIf (!(isServer && isFirst)) "https://${cluster.apiAddress}:6443";
      tokenFile = cluster.tokenFile;
      # Node and host have one name, so that deploy and people mean the same.
      nodeName = config.networking.hostName;
      extraFlags = lib.optionals isServer (
        [
          "--tls-san=${cluster.apiAddress}"
          "--secrets-encryption"
        ]
        ++ lib.optionals cluster.cilium.enable [
          "--flannel-backend=none"
          "--disable-network-policy"
        ]
      );
      gracefulNodeShutdown = lib.mkIf cluster.gracefulShutdown.enable {
        enable = true;
        shutdownGracePeriod = "${toString cluster.gracefulShutdown.seconds}s";
        shutdownGracePeriodCriticalPods = "${toString cluster.gracefulShutdown.criticalSeconds}s";
      };
    };
  };
}

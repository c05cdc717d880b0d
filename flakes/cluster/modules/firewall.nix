# Ports that the hosts of a cluster open to one another. Pods' own traffic comes through the CNI's interfaces.
{ config, lib, ... }:
let
  inherit (config) cluster;
  isControlPlane = cluster.role == "control-plane";
  isK3s = cluster.distribution == "k3s";
in
{
  networking.firewall = {
    enable = true;
    allowedTCPPorts = [
      10250 # kubelet
    ]
    ++ lib.optional isControlPlane 6443 # Kubernetes API
    ++ lib.optionals (isControlPlane && isK3s) [
      2379 # etcd, clients
      2380 # etcd, members
    ]
    ++ lib.optional (isControlPlane && !isK3s) 8888; # certificates of services.kubernetes (easyCerts)
    allowedUDPPorts = lib.optional (!cluster.cilium.enable) 8472; # flannel's VXLAN
    trustedInterfaces =
      if cluster.cilium.enable then
        [
          "cilium_+"
          "lxc+"
        ]
      else if isK3s then
        [
          "cni0"
          "flannel.1"
        ]
      else
        [
          "mynet" # the bridge of services.kubernetes.flannel
          "flannel.1"
        ];
  };
}

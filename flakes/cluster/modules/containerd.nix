# containerd for services.kubernetes. k3s brings its own and must not get a second one.
{ config, lib, ... }:
{
  config = lib.mkIf (config.cluster.distribution == "kubernetes") {
    virtualisation.containerd = {
      enable = true;
      settings.plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc = {
        runtime_type = "io.containerd.runc.v2";
        options.SystemdCgroup = true; # as the kubelet's cgroup driver
      };
    };
  };
}

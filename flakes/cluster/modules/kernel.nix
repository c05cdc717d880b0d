# Kernel modules and settings that every Kubernetes node needs. CNI and storage add their own.
{ lib, ... }:
{
  boot.kernelModules = [
    "br_netfilter"
    "overlay"
  ];

  boot.kernel.sysctl = {
    "net.bridge.bridge-nf-call-iptables" = lib.mkDefault 1;
    "net.bridge.bridge-nf-call-ip6tables" = lib.mkDefault 1;
    "net.ipv4.ip_forward" = lib.mkDefault 1;
    "net.ipv6.conf.all.forwarding" = lib.mkDefault 1;
    # Pods watch many files; the defaults are for one person's desktop.
    "fs.inotify.max_user_instances" = lib.mkDefault 8192;
    "fs.inotify.max_user_watches" = lib.mkDefault 524288;
    # A kernel that panics starts again by itself, so that deploy finds the host on its old system.
    "kernel.panic" = lib.mkDefault 10;
    "kernel.panic_on_oops" = lib.mkDefault 1;
  };

  swapDevices = lib.mkDefault [ ];
  zramSwap.enable = lib.mkDefault false;
}

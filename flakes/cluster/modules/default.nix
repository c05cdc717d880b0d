# Every module of the cluster; what is not switched on changes nothing.
{
  imports = [
    ./options.nix
    ./assertions.nix
    ./node.nix
    ./access.nix
    ./boot.nix
    ./kernel.nix
    ./firewall.nix
    ./k3s.nix
    ./kubernetes.nix
    ./containerd.nix
    ./shutdown.nix
    ./cilium.nix
    ./rook.nix
    ./longhorn.nix
  ];
}

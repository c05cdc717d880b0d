# What all hosts of the cluster share. The words are explained in modules/options.nix.
{
  cluster = {
    name = "homelab";
    distribution = "k3s"; # "k3s", or "kubernetes": the components of services.kubernetes

    firstHost = "cp1"; # begins the cluster; the others join it
    apiAddress = "203.0.113.11"; # cp1's, or a virtual address in front of all control-plane hosts

    deployUser = {
      name = "deploy";
      keys = [ ]; # "ssh-ed25519 AAAA... you@laptop"
      from = [ ]; # such as "10.0.0.5": only from there
    };

    # Network and storage: what they need of the hosts. Installing them is the cluster's business.
    cilium.enable = false;
    rook.enable = false;
    longhorn.enable = false;
  };

  # What the hosts were installed with. It is not the version they run: leave it.
  system.stateVersion = "25.11";
}

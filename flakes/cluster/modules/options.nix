# The vocabulary of cluster.nix and hosts/*.nix. It declares; the modules beside it act.
{ lib, ... }:
let
  inherit (lib) mkEnableOption mkOption types;
in
{
  options.cluster = {
    name = mkOption {
      type = types.str;
      description = "The cluster's name, as in inventory.yaml.";
    };
    distribution = mkOption {
      type = types.enum [
        "k3s"
        "kubernetes"
      ];
      default = "k3s";
      description = "k3s, or the components of services.kubernetes.";
    };
    role = mkOption {
      type = types.enum [
        "control-plane"
        "worker"
      ];
      description = "What this host is, as in inventory.yaml.";
    };
    address = mkOption {
      type = types.str;
      description = "Where this host is reached, as in inventory.yaml.";
    };
    firstHost = mkOption {
      type = types.str;
      description = "The control-plane host that begins the cluster; the others join it.";
    };
    apiAddress = mkOption {
      type = types.str;
      description = "Where kubelets reach the Kubernetes API: a virtual address, or the first host's.";
    };
    tokenFile = mkOption {
      type = types.path;
      default = "/var/lib/secrets/cluster-token";
      description = "A file on the host with the secret that hosts join with. It is never in the flake.";
    };
    deployUser = {
      name = mkOption {
        type = types.str;
        default = "deploy";
        description = "Who deploys, as ssh.user in inventory.yaml.";
      };
      keys = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "SSH public keys of those who may deploy.";
      };
      from = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.0.0.5" ];
        description = "Addresses that deployments come from; none: from anywhere.";
      };
    };
    gracefulShutdown = {
      enable = mkEnableOption "ending pods in order before the host goes down" // {
        default = true;
      };
      seconds = mkOption {
        type = types.ints.positive;
        default = 60;
        description = "How long pods have altogether.";
      };
      criticalSeconds = mkOption {
        type = types.ints.positive;
        default = 20;
        description = "The part of it that is kept for critical pods, which end last.";
      };
    };
    cilium.enable = mkEnableOption "what Cilium needs of a host, in place of flannel";
    rook.enable = mkEnableOption "what Rook and Ceph need of a host";
    longhorn.enable = mkEnableOption "what Longhorn needs of a host";
  };
}

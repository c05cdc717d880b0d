# Mistakes that would otherwise be found on the host, or after it has locked everybody out.
{ config, lib, ... }:
let
  inherit (config) cluster;
in
{
  assertions = [
    {
      assertion = cluster.deployUser.keys != [ ];
      message = "cluster.deployUser.keys in cluster.nix is empty: nobody could log in to deploy. Put your SSH public key there.";
    }
    {
      assertion = cluster.gracefulShutdown.criticalSeconds < cluster.gracefulShutdown.seconds;
      message = "cluster.gracefulShutdown.criticalSeconds is a part of seconds and must be less.";
    }
    {
      assertion = config.swapDevices == [ ];
      message = "The kubelet refuses to run with swap; remove swapDevices.";
    }
    {
      assertion = !lib.hasPrefix builtins.storeDir (toString cluster.tokenFile);
      message = "cluster.tokenFile is in the store, where everybody can read it; write it as a string, not as a path.";
    }
  ];
}

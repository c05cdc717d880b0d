# Lets logind wait as long as the kubelet needs to end its pods; without this it gives up after five seconds.
{ config, lib, ... }:
let
  inherit (config.cluster) gracefulShutdown;
in
{
  environment.etc = lib.mkIf gracefulShutdown.enable {
    "systemd/logind.conf.d/50-node-shutdown.conf".text = ''
      [Login]
      InhibitDelayMaxSec=${toString (gracefulShutdown.seconds + 10)}
    '';
  };
}

# What any host of the cluster is, whatever it runs: clock, Nix, tools. No Kubernetes here.
{
  lib,
  pkgs,
  ...
}:
{
  # Certificates, leases and etcd all go by the clock.
  services.timesyncd.enable = lib.mkDefault true;
  time.timeZone = lib.mkDefault "UTC";

  nix = {
    settings = {
      experimental-features = [
        "nix-command"
        "flakes"
      ];
      auto-optimise-store = true;
    };
    # Old generations are what deploy goes back to: keep some weeks of them.
    gc = {
      automatic = true;
      dates = "weekly";
      options = "--delete-older-than 30d";
    };
  };

  # A full journal looks like a full disk to the kubelet, which then evicts pods.
  services.journald.extraConfig = "SystemMaxUse=1G";

  hardware.enableRedistributableFirmware = lib.mkDefault true;

  environment.systemPackages = [
    pkgs.curl
    pkgs.dnsutils
    pkgs.ethtool
    pkgs.htop
    pkgs.jq
  ];
}

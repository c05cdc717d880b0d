"""Stand-ins for programs on the controller: nix, nixos-anywhere, nixos-rebuild and deploy-rs."""

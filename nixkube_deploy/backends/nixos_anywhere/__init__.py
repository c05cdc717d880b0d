"""Installation by nixos-anywhere."""

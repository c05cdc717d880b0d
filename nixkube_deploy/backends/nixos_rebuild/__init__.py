"""Activation by nixos-rebuild."""

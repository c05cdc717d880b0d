"""The nix command line."""

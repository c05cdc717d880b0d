"""From a flake to derivations, under a memory cap."""

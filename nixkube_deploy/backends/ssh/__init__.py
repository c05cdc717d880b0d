"""Hosts over SSH."""

from nixkube_deploy.backends.ssh import libraries as libraries  # First of all: see there.

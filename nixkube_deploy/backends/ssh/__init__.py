"""Hosts over SSH. Everything here that needs asyncssh takes it from ``libraries``."""

"""How one host is changed safely: probe, activation, reboot, cordon and drain, gate, locks. Speaks to ports only."""

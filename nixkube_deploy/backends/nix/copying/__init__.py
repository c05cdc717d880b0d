"""From this store to the hosts'."""

"""The table of commands a simulated host knows. Anything that is not in it does not exist."""

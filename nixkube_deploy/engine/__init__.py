"""A task graph and a way to act, to events. One ledger, one place that decides, one place that acts."""

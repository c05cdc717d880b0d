"""Facts, closures and a strategy to a task graph. Pure."""

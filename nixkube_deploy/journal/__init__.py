"""Events on disk: append-only, fsynced, versioned, locked."""

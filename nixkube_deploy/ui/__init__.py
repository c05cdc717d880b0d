"""Events to eyes: live, plain, JSON lines, reports."""

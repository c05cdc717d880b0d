"""From derivations to systems, here or on their hosts."""

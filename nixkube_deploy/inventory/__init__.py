"""YAML to Fleet: strict, with marks, carets and did-you-mean."""

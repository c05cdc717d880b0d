"""The vocabulary: frozen values that every room may name. Standard library only, no I/O, no clock."""

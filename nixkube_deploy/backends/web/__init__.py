"""HTTP requests of the user's gates."""

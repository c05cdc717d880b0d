"""Programs on the controller."""

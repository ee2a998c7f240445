"""Lists what a user can ask for."""

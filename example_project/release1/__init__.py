"""Release 1 of the application."""

"""Release 2 of the application."""

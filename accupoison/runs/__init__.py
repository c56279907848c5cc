"""A burn-in and an online run, from settings to files."""
